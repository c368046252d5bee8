"""A loop over chunks of rows, inside a compiled function."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

T = TypeVar("T")


def in_chunks(step: Callable[[T, Array, int], T], carry: T, start: int, stop: int, chunk: int) -> T:
    """`carry` after `step(carry, first row, size)` for every chunk of rows `start` to `stop`; the last is smaller."""
    chunk = min(chunk, stop - start)
    whole, left = divmod(stop - start, chunk)
    carry = jax.lax.fori_loop(0, whole, lambda i, part: step(part, start + i * chunk, chunk), carry)
    return step(carry, jnp.asarray(stop - left), left) if left else carry
