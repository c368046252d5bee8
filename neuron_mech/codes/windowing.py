"""Sliding-window binarization: pre-activations inside a window of percentile ranks become 1, others 0 (section 5.2).

A window holds its lower edge and not its upper one. The outermost are open-ended, so that windows side by side divide
all values among them, those of the test set too.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, UInt8

from neuron_mech.codes.percentiles import percentiles
from neuron_mech.config import check_once
from neuron_mech.errors import InputError


class Window(struct.PyTreeNode):
    """The two edges of one window for each neuron; with a leading axis, several windows."""

    lower: Float[Array, "*windows neurons"]
    upper: Float[Array, "*windows neurons"]

    def __call__(self, pre_activation: Float[Array, "*batch neurons"]) -> Bool[Array, "*batch neurons"]:
        """Which values lie inside. For one window; map over several with `jax.vmap`."""
        like = (1,) * (pre_activation.ndim - 1)
        return (pre_activation >= self.lower.reshape(*like, -1)) & (pre_activation < self.upper.reshape(*like, -1))


def check_windows(centers: Sequence[float], width: float) -> None:
    """Raise InputError for windows that reach past ranks 0 and 100, have no width, or are none."""
    if not 0 < width <= 100:
        raise InputError(f"--width is {width}: give a width above 0 and at most 100 percentile ranks")
    if not len(centers):
        raise InputError("--centers is empty: give at least one window center")
    for center in centers:
        if not (center - width / 2 >= 0 and center + width / 2 <= 100):  # nan is neither
            raise InputError(
                f"--centers has {center}, whose window of width {width} leaves ranks 0 to 100: "
                f"give centers from {width / 2:g} to {100 - width / 2:g}"
            )
    check_once("--centers", centers)


def at_centers(values: Float[Array | np.ndarray, "values neurons"], centers: Sequence[float], width: float) -> Window:
    """A window around every center rank, in each neuron's own values. Shapes (windows, neurons).

    Raises InputError for a window that leaves ranks 0 to 100.
    """
    check_windows(centers, width)
    below, above = np.asarray(centers) - width / 2, np.asarray(centers) + width / 2
    edges = percentiles(values, np.concatenate([below, above]))
    return Window(
        lower=jnp.where((below <= 0)[:, None], -jnp.inf, edges[: len(below)]),
        upper=jnp.where((above >= 100)[:, None], jnp.inf, edges[len(below) :]),
    )


def pack(inside: Bool[Array, "samples *values"]) -> UInt8[Array, "samples bytes"]:
    """One sample's zeros and ones as bits: an eighth of a byte array, a thirty-second of what the network takes."""
    return jnp.packbits(inside.reshape(inside.shape[0], -1), axis=1)


def unpack(bits: UInt8[Array, "samples bytes"], shape: tuple[int, ...]) -> Float[Array, "samples *values"]:
    """The inverse of `pack`, as float32 zeros and ones of one sample's `shape`."""
    flat = jnp.unpackbits(bits, axis=1, count=math.prod(shape))
    return flat.reshape(bits.shape[0], *shape).astype(jnp.float32)
