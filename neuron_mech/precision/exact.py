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
"""exact: products to float32's precision on any device. fast: the device's default."""

Arithmetic = Literal["default", "float32"]
"""default: the device's default, TF32 on a GPU and bfloat16 on a TPU. float32: full precision."""


def at(precision: Precision | Product, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of pytrees of arrays with its products computed at this precision, whatever JAX's settings.

    `precision` may also be a function that computes each product, for `rewritten`.
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
    """`function` with every matrix product and convolution of float32 in it computed to float32's precision.

    By default a GPU multiplies float32 in TF32 (eleven bits) and a TPU in bfloat16 (eight), which turns the signs of
    sums that nearly cancel. On a CPU the default is exact already. Take derivatives inside, `exact(jax.grad(f))`:
    products that differentiation adds afterwards are not exchanged.

    Arguments:
        function: of pytrees of arrays, positional ones only. Products of other types, such as a model's own bfloat16,
            stay as they are, and so do those inside custom calls and Pallas kernels.

    Returns a pure function of the same arguments with the same results, to be jitted. On an NVIDIA GPU a product is
    made of three shorter ones (`splitting`), on a TPU and elsewhere with JAX's precision `highest`.

    >>> import jax.numpy as jnp
    >>> from neuron_mech import precision
    >>> product = lambda x, w: (x @ w)[0, 0]
    >>> x, w = jnp.array([[1.0, 1.0]]), jnp.array([[1 + 2**-12], [-1.0]])
    >>> as_on_a_gpu = precision.at(precision.imitated(precision.TF32), product)
    >>> float(as_on_a_gpu(x, w)), float(precision.exact(product)(x, w)) == 2**-12
    (0.0, True)
    """

    def highest(*args: Any) -> Any:
        # For products that cannot be rewritten, such as those inside shard_map.
        with multiplying("float32"):
            return function(*args)

    return rewritten(highest, _exact)


def multiplying(arithmetic: Arithmetic) -> AbstractContextManager[Any]:
    """A context in which JAX multiplies float32 at this precision, except in operations that set their own."""
    return jax.default_matmul_precision("highest" if arithmetic == "float32" else "default")


def _exact(equation: JaxprEqn, as_it_is: Multiply, left: jax.Array, right: jax.Array) -> jax.Array:
    """For `rewritten`: a product to float32's precision on the platform that it is compiled for."""
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
