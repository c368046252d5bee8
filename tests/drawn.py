"""Random inputs, and models begun with little to compile, which is most of a small test's time."""

from typing import Any

import flax.linen as nn
import jax
from jax import Array


def normal(seed: int, *shape: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


def integers(seed: int, low: int, high: int, *shape: int) -> Array:
    """From `low` up to below `high`."""
    return jax.random.randint(jax.random.key(seed), shape, low, high)


def started(model: nn.Module, seed: int, *args: Any, **kwargs: Any) -> Any:
    """What `model.init` returns, as one program: outside of `jit` every operation in it is compiled by itself."""
    return jax.jit(lambda key: model.init(key, *args, **kwargs))(jax.random.key(seed))
