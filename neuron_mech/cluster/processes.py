"""Several processes of one run, on one machine or on many: which one this is, and what they tell each other.

Every process goes through the same program, and all must come to the same decisions: what one decides by its own clock,
signals or files it tells the others, or they wait for each other for ever. Process 0 alone reads and writes the run's
directory. With one process, which is the default, none of this does anything. How they come together: `joining`.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int

T = TypeVar("T")

_BLOCK = 2**26
"""Bytes that are told at once: what telling takes of a device's memory."""


def first() -> bool:
    """Whether this is process 0, which reads, writes and speaks for all."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether there is more than one process."""
    return jax.process_count() > 1


def agreed(*values: int) -> tuple[int, ...]:
    """The largest of each value over all processes: a flag is set for all where it is set for one."""
    if not several():
        return values
    return tuple(int(v) for v in multihost_utils.process_allgather(np.asarray(values, np.int32)).max(0))


def shard(items: Sequence[T]) -> Sequence[T]:
    """Of work that all processes know, this one's share."""
    return items[jax.process_index() :: jax.process_count()]


def all_sum(counts: Int[np.ndarray, "*values"]) -> Int[np.ndarray, "*values"]:
    """The sum of every process's counts, each below 2**31: exact, whatever their number."""
    return multihost_utils.process_allgather(counts.astype(np.int32)).sum(0, dtype=np.int64) if several() else counts


def broadcast(read: Callable[[], bytes]) -> bytes:
    """What process 0 reads, in every process: it alone calls `read`."""
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
    """The array that process 0 reads, in every process: it alone calls `read`."""
    if not several():
        return read()
    return np.frombuffer(broadcast(lambda: read().tobytes()), dtype).reshape(shape)
