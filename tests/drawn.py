"""Random inputs, and models begun: with little to compile, which is most of a small test's time.

JAX's own draws are compiled for every shape (0.1 to 0.2 s each), and a model that is begun outside of `jit` for every
operation in it (0.02 s each).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def normal(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def integers(seed: int, low: int, high: int, *shape: int) -> Array:
    """From `low` up to below `high`."""
    return jnp.asarray(np.random.default_rng(seed).integers(low, high, shape).astype(np.int32))


def started(model: nn.Module, seed: int, *args: Any, **kwargs: Any) -> Any:
    """What `model.init` returns, as one program."""
    return jax.jit(lambda key: model.init(key, *args, **kwargs))(jax.random.key(seed))
