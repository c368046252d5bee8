"""Random inputs, and models begun, by numpy: nothing is compiled for them, which is most of a small test's time."""

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
    return jnp.asarray(np.random.default_rng(seed).integers(low, high, shape, np.int32))


BEGINNINGS = {"bias": 0, "mean": 0, "scale": 1, "var": 1}
"""What these variables of Flax's layers are at first."""


def started(model: nn.Module, seed: int, *args: Any, **kwargs: Any) -> Any:
    """Variables of the shapes of `model.init`'s: biases zero, as there, and kernels of variance 1 / fan-in."""
    rng = np.random.default_rng(seed)

    def begun(path: tuple[Any, ...], leaf: Any) -> Array:
        if (first := BEGINNINGS.get(getattr(path[-1], "key", ""))) is not None:
            return jnp.asarray(np.full(leaf.shape, first, leaf.dtype))
        drawn = rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1][-3:])))
        return jnp.asarray(drawn.astype(leaf.dtype))

    shapes = jax.eval_shape(lambda key: model.init(key, *args, **kwargs), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(begun, shapes)
