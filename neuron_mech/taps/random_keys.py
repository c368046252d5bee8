"""Random keys of a model's own, such as dropout's, made each sample's and each recording's own."""

from typing import Any

import jax
from jaxtyping import Array, Int, PyTree


def folded(variables: PyTree, rngs: PyTree, number: Int[Array, ""] | int) -> tuple[PyTree, PyTree]:
    """Both with a number folded into all keys: those in `rngs`, and typed keys among the variables, as NNX has them."""

    def fold(key: Any) -> Any:
        if jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape:
            return jax.vmap(lambda one: jax.random.fold_in(one, number))(key.reshape(-1)).reshape(key.shape)
        return jax.random.fold_in(key, number)

    typed = lambda leaf: fold(leaf) if is_key(leaf) else leaf  # noqa: E731
    return jax.tree.map(typed, variables), jax.tree.map(fold, rngs)


def has_keys(variables: PyTree, rngs: PyTree) -> bool:
    """Whether there are any."""
    return bool(jax.tree.leaves(rngs)) or any(map(is_key, jax.tree.leaves(variables)))


def is_key(leaf: Any) -> bool:
    """Whether this is a typed key, or an array of them."""
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
