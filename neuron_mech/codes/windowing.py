"""Sliding-window binarization: pre-activations inside a window of percentile ranks become 1, others 0 (section 5.2).

A window includes its lower edge and excludes its upper one. The outermost windows are open-ended, so that every value,
also of the test set, is in one of the windows that lie side by side.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8

from neuron_mech.codes.percentiles import percentiles
from neuron_mech.codes.sources import Source
from neuron_mech.config import check_once
from neuron_mech.errors import InputError
from neuron_mech.training.datasets import Samples

CHUNK = 1000
"""Samples binarized at a time."""


class Window(struct.PyTreeNode):
    """The two edges of one window for each neuron; with a leading axis, several windows."""

    lower: Float[Array, "*windows neurons"]
    upper: Float[Array, "*windows neurons"]

    def __call__(self, pre_activation: Float[Array, "*batch neurons"]) -> Bool[Array, "*batch neurons"]:
        """Whether each value is inside. For one window; map over several with `jax.vmap`."""
        like = (1,) * (pre_activation.ndim - 1)
        return (pre_activation >= self.lower.reshape(*like, -1)) & (pre_activation < self.upper.reshape(*like, -1))


def check_windows(centers: Sequence[float], width: float) -> None:
    """Raise InputError for windows that reach below rank 0 or above 100, for a width of 0, and for no windows."""
    if not 0 < width <= 100:
        raise InputError(f"--width is {width}: give a width above 0 and at most 100 percentile ranks")
    if not len(centers):
        raise InputError("--centers is empty: give at least one window center")
    for center in centers:
        if not (center - width / 2 >= 0 and center + width / 2 <= 100):  # NaN fails too
            raise InputError(
                f"--centers has {center}, whose window of width {width} leaves ranks 0 to 100: "
                f"give centers from {width / 2:g} to {100 - width / 2:g}"
            )
    check_once("--centers", centers)


def at_centers(values: Float[Array | np.ndarray, "values neurons"], centers: Sequence[float], width: float) -> Window:
    """A window around every center rank, from center - width / 2 to center + width / 2, of each neuron's own values.

    Inside is what is at least the lower edge and below the upper one. A window that reaches rank 0 is open below, one
    that reaches 100 is open above; so of windows side by side each value is in exactly one, also a value of the test
    set that is smaller or larger than all of these.

    Arguments:
        values: pre-activations of shape (values, neurons), whose percentiles are the edges. Of a neuron with a NaN
            among them, only open edges are numbers, and nothing is inside of a window with an edge of NaN. Where many
            values of a neuron are equal, both edges of a window can be, and the window is empty.
        centers: percentile ranks, each once.
        width: in percentile ranks, above 0 and at most 100.

    Returns:
        `Window` whose `lower` and `upper` are float32 of shape (windows, neurons), -inf and inf where open.

    Raises InputError for windows that reach below rank 0 or above 100, other widths, no centers, a center given twice,
    and no values.

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech.codes import windowing
    >>> values = jnp.arange(100.0)[:, None]
    >>> windows = windowing.at_centers(values, [5, 45, 95], width=10)
    >>> inside = jax.vmap(lambda window: window(values))(windows)
    >>> inside.sum(1).tolist(), int(inside[1].argmax())
    ([[10], [10], [10]], 40)
    """
    check_windows(centers, width)
    below, above = np.asarray(centers) - width / 2, np.asarray(centers) + width / 2
    edges = percentiles(values, np.concatenate([below, above]))
    return Window(
        lower=jnp.where((below <= 0)[:, None], -jnp.inf, edges[: len(below)]),
        upper=jnp.where((above >= 100)[:, None], jnp.inf, edges[len(below) :]),
    )


def pack(inside: Bool[Array, " samples *values"]) -> UInt8[Array, "samples bytes"]:
    """Each sample's zeros and ones as bits: a thirty-second of the memory of float32."""
    return jnp.packbits(inside.reshape(inside.shape[0], -1), axis=1)


def unpack(bits: UInt8[Array, "samples bytes"], shape: tuple[int, ...]) -> Float[Array, " samples *values"]:
    """The inverse of `pack`, as float32 zeros and ones of one sample's `shape`."""
    flat = jnp.unpackbits(bits, axis=1, count=math.prod(shape))
    return flat.reshape(bits.shape[0], *shape).astype(jnp.float32)


class Binarized(struct.PyTreeNode):
    """Samples as zeros and ones at a site, packed as bits, with their labels."""

    bits: UInt8[Array, "*windows_and_samples bytes"]
    labels: Int[Array, "*samples"]


def binarizer(source: Source, site: str) -> Callable[[Window, Samples], Binarized]:
    """A function of (windows with a leading axis, samples) that gives the samples binarized by every window at a site.

    The function owns its compiled program: reuse it while the source stays the same. `Retraining` takes what it gives:
    `bits` of shape (windows, samples, bytes).

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech.codes import windowing
    >>> from neuron_mech.training.datasets import Samples
    >>> samples = Samples(jnp.arange(10, dtype=jnp.uint8).reshape(10, 1, 1, 1), jnp.arange(10), largest=9)
    >>> brightness = jax.tree_util.Partial(lambda inputs: {"pixel": inputs.reshape(-1, 1)})
    >>> windows = windowing.at_centers(jnp.linspace(0, 1, 10)[:, None], [25, 75], width=50)
    >>> binarized = windowing.binarizer(brightness, "pixel")(windows, samples)
    >>> jax.vmap(lambda bits: windowing.unpack(bits, (1,)))(binarized.bits)[..., 0].sum(1).tolist()
    [5.0, 5.0]
    """

    @jax.jit
    def look(source: Source, windows: Window, part: Samples) -> jax.Array:
        values = source(part.inputs)[site]
        return jax.vmap(lambda window: pack(window(values)))(windows)

    def binarized(windows: Window, samples: Samples) -> Binarized:
        parts = [look(source, windows, part) for part in samples.chunks(CHUNK)]
        return Binarized(jnp.concatenate(parts, axis=1), samples.labels)

    return binarized
