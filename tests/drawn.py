"""Random inputs, and models begun, by numpy: nothing is compiled for them, which is most of a small test's time."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array


def normal(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def integers(seed: int, low: int, high: int, *shape: int) -> Array:
    """From `low` up to below `high`."""
    return jnp.asarray(np.random.default_rng(seed).integers(low, high, shape, np.int32))


BEGINNINGS = {"bias": 0, "mean": 0, "scale": 1, "var": 1}
"""What these variables of Flax's layers are at first."""


def begun(shapes: Any, seed: int) -> Any:
    """Variables of these shapes: biases zero, as in Flax, and kernels of variance 1 / fan-in."""
    rng = np.random.default_rng(seed)

    def made(path: tuple[Any, ...], leaf: Any) -> Array:
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(seed)
        name = next(at.key for at in reversed(path) if hasattr(at, "key"))  # NNX's variables have a value each
        first = BEGINNINGS.get(name, 0 if jnp.issubdtype(leaf.dtype, jnp.integer) else None)
        drawn = rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1][-3:])))
        return jnp.asarray(np.asarray(drawn if first is None else np.full(leaf.shape, first)).astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(made, shapes)


def started(model: nn.Module, seed: int, *args: Any, **kwargs: Any) -> Any:
    """Variables of the shapes of `model.init`'s."""
    return begun(jax.eval_shape(lambda key: model.init(key, *args, **kwargs), jax.random.key(0)), seed)


def started_nnx(make: Callable[[], nnx.Module], seed: int) -> Any:
    """The model that `make` makes."""
    graph, state = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graph, begun(state, seed))


def by_init(model: nn.Module, seed: int, *args: Any, **kwargs: Any) -> Any:
    """What `model.init` itself returns, where that is asked about; as one program, not one for each operation in it."""
    return jax.jit(lambda key: model.init(key, *args, **kwargs))(jax.random.key(seed))
