"""Functions whose products are computed to float32's precision on any device."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jax.lax import Precision as Lax

from neuron_mech.precision.rewriting import Multiply, Product, rewritten
from neuron_mech.precision.splitting import in_three_passes

Precision = Literal["exact", "fast"]
"""exact: products to float32's own precision on any device. fast: as the device multiplies by default."""

Arithmetic = Literal["default", "float32"]
"""default: as the device multiplies by default: TF32 on a GPU, bfloat16 on a TPU. float32: to its full precision."""


def at(precision: Precision | Product, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of pytrees of arrays, computed at this precision, whatever JAX is told elsewhere.

    Instead of a name, a way to compute every product in it, for `rewritten`.
    """
    if precision == "exact":
        return exact(function)
    if callable(precision):
        return rewritten(function, precision)

    def run(*args: Any) -> Any:
        with multiplying("default"):
            return function(*args)

    return run


def exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with every float32 product in it computed to float32's precision. Take derivatives inside it.

    Products of other types, such as a model's own bfloat16, stay as they are.
    """

    def highest(*args: Any) -> Any:
        # For what cannot be rewritten, such as products inside shard_map.
        with multiplying("float32"):
            return function(*args)

    return rewritten(highest, _exact)


def multiplying(arithmetic: Arithmetic) -> AbstractContextManager[Any]:
    """A context in which JAX multiplies float32 so, unless an operation says otherwise itself."""
    return jax.default_matmul_precision("highest" if arithmetic == "float32" else "default")


def _exact(equation: JaxprEqn, as_it_is: Multiply, left: jax.Array, right: jax.Array) -> jax.Array:
    """For `rewritten`: a product to float32's precision on whatever it is compiled for."""
    if left.dtype != jnp.float32 or right.dtype != jnp.float32:
        return as_it_is(left, right)

    def once(precision: Lax) -> Multiply:
        return lambda left, right: as_it_is(left, right, precision=(precision, precision))

    return jax.lax.platform_dependent(
        left,
        right,
        cuda=lambda left, right: in_three_passes(equation, once(Lax.DEFAULT), left, right),
        default=once(Lax.HIGHEST),
    )
