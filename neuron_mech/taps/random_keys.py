"""Random keys of a model, such as dropout's, made different for each sample and each recording."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, PyTree


def folded(variables: PyTree, rngs: PyTree, number: Int[Array, ""] | int) -> tuple[PyTree, PyTree]:
    """(variables, rngs) with a number folded into all keys: those in `rngs`, and NNX's typed keys in the variables."""

    def fold(key: Any) -> Any:
        if jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape:
            return jax.vmap(lambda one: jax.random.fold_in(one, number))(key.reshape(-1)).reshape(key.shape)
        return jax.random.fold_in(key, number)

    typed = lambda leaf: fold(leaf) if is_key(leaf) else leaf  # noqa: E731
    return jax.tree.map(typed, variables), jax.tree.map(fold, rngs)


def has_keys(variables: PyTree, rngs: PyTree) -> bool:
    """Whether there are any random keys."""
    return bool(jax.tree.leaves(rngs)) or any(map(is_key, jax.tree.leaves(variables)))


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed key or an array of typed keys."""
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def on_host(leaf: Any) -> Any:
    """The host's copy of an array, where it is cut and compared without anything being compiled; keys as they are."""
    return leaf if is_key(leaf) else np.asarray(leaf)
