"""Several processes of one run, on one machine or on many: which one this is, and how they exchange data.

Every process runs the same program, and all must take the same decisions. What depends on one process's clock, signals
or files must therefore be sent to the others, or they would wait for each other for ever. Only process 0 reads and
writes the run's directory. With one process, the default, these functions do nothing. `joining` starts the processes.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int

T = TypeVar("T")

_BLOCK = 2**26
"""Bytes sent at a time, which bounds the device memory that sending takes."""


def first() -> bool:
    """Whether this is process 0, which alone reads and writes files and prints."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether there is more than one process."""
    return jax.process_count() > 1


def agreed(*values: int) -> tuple[int, ...]:
    """The maximum of each value over all processes; so a flag that one process sets is set in all."""
    if not several():
        return values
    return tuple(int(v) for v in multihost_utils.process_allgather(np.asarray(values, np.int32)).max(0))


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's share of a list of work that all processes know: every n-th item of n processes."""
    return items[jax.process_index() :: jax.process_count()]


def all_sum(counts: Int[np.ndarray, "*values"]) -> Int[np.ndarray, "*values"]:
    """The sum of all processes' counts, each below 2**31, as exact int64."""
    return multihost_utils.process_allgather(counts.astype(np.int32)).sum(0, dtype=np.int64) if several() else counts


def broadcast(read: Callable[[], bytes]) -> bytes:
    """The bytes that `read` returns in process 0, in every process; the others do not call `read`."""
    if not several():
        return read()
    content = np.frombuffer(read(), np.uint8) if first() else np.zeros(0, np.uint8)
    size = agreed(*divmod(len(content), _BLOCK))
    count = size[0] * _BLOCK + size[1]
    found = np.zeros(count, np.uint8)
    found[: len(content)] = content
    for start in range(0, count, _BLOCK):
        found[start : start + _BLOCK] = multihost_utils.broadcast_one_to_all(found[start : start + _BLOCK])
    return found.tobytes()


def broadcast_array(read: Callable[[], np.ndarray], shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """The array of this shape and type that `read` returns in process 0, in every process."""
    if not several():
        return read()
    return np.frombuffer(broadcast(lambda: read().tobytes()), dtype).reshape(shape)
