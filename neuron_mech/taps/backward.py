"""Replacing a site's gradient: edits that leave what a site computes alone and change what flows back through it.

An edit of `edited` changes values on the way forward. These are identities there; on the way back, whatever arrives at
the site leaves it changed, and all layers below learn from the changed derivative.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int8

from neuron_mech.taps.edits import Edit
from neuron_mech.taps.finding import SiteError


def backward_edit(change: Callable[[Array, Array], Array], given: Int8[Array, "*values"]) -> Edit:
    """The identity forward; backward the upstream derivative g becomes `change(g, given)`.

    `given` are whole numbers of the site's own shape, batch first: one for each sample and neuron. Raises SiteError
    while tracing where its shape is another, or where `change` does not keep g's shape and dtype.
    """

    @jax.custom_vjp
    def identity(value: Array, given: Array) -> Array:
        return value

    def backward(given: Array, upstream: Array) -> tuple[Array, np.ndarray]:
        changed = change(upstream, given)
        if changed.shape != upstream.shape or changed.dtype != upstream.dtype:
            raise SiteError(
                f"the change of a derivative turns {upstream.dtype}{list(upstream.shape)} into "
                f"{changed.dtype}{list(changed.shape)}: it must keep shape and dtype"
            )
        return changed, np.zeros(given.shape, jax.dtypes.float0)

    identity.defvjp(lambda value, given: (value, given), backward)

    def edit(value: Array) -> Array:
        if given.shape != value.shape:
            raise SiteError(
                f"what changes the derivative has shape {list(given.shape)}, the site's values {list(value.shape)}: "
                "give one whole number for every sample, position and neuron of this batch"
            )
        return identity(value, given)

    return edit


def frozen_signs(categories: Int8[Array, "*values"]) -> Edit:
    """Frozen-sign backpropagation: backward g becomes |g| c, with c the category of each sample and neuron, +1 or -1.

    Only the size of a derivative is the network's own; its sign is what `categories` say, +1 for low (the activation
    should go down) and -1 for high. Where c is 0, g is left as it is: with zeros alone this is ordinary
    backpropagation.
    """
    return backward_edit(lambda g, c: jnp.where(c == 0, g, jnp.abs(g) * c.astype(g.dtype)), categories)


def agreeing(categories: Int8[Array, "*values"]) -> Edit:
    """Backward g stays where its sign is that of `categories`, and becomes 0 where it is the other one.

    A derivative that contradicts its category is dropped, where `frozen_signs` turns it round. Where c is 0, g is left.
    """
    return backward_edit(lambda g, c: jnp.where(g * c.astype(g.dtype) < 0, 0, g), categories)


def flipped(signs: Int8[Array, "*values"]) -> Edit:
    """Backward g becomes g s, with s = +1 or -1 for each sample and neuron: -1 turns the derivative round."""
    return backward_edit(lambda g, s: g * s.astype(g.dtype), signs)
