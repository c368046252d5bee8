"""The freeze map: when each sign turned for the last time.

A pair is frozen before recording t if its sign never flips at t or later. Of each pair, the recording of its last flip
is kept as a small integer, and its sign. This works for any signs: of derivatives, or of pre-activations, whose signs
are the gates of a ReLU.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Num

from neuron_mech.recording.counting import count_type


class LastFlip(struct.PyTreeNode):
    """Of every (sample, position ..., neuron): its last nonzero sign, and the recording at which that first differed
    from the one before. `at` is 0 where no sign ever turned, the first nonzero sign being no turn.
    """

    sign: Int[Any, "*values"]
    at: Int[Any, "*values"]


def begin(shape: tuple[int, ...], recordings: int) -> LastFlip:
    """The state before the first of `recordings` recordings."""
    return LastFlip(jnp.zeros(shape, jnp.int8), jnp.zeros(shape, count_type(recordings)))


def update(last: LastFlip, values: Num[Array, "*values"], recording: Int[Array, ""] | int) -> LastFlip:
    """The state after recording number `recording`, counted from 0; zeros change nothing. Pure."""
    sign = jnp.sign(values).astype(jnp.int8)
    at = jnp.where(last.sign * sign < 0, jnp.asarray(recording, last.at.dtype), last.at)
    return LastFlip(jnp.where(sign == 0, last.sign, sign), at)


def share_frozen(last: LastFlip, recordings: int) -> Float[np.ndarray, " recordings"]:
    """For t = 0, 1 ... `recordings` - 1, the share of pairs whose sign does not turn after recording t.

    Over pairs that ever had a sign; NaN where there is none. It always rises to 1, since no flip after the last
    recording can be seen. So compare a curve with that of signs that have no reason to freeze.
    """
    at = np.asarray(last.at)[np.asarray(last.sign) != 0]
    if not len(at):
        return np.full(recordings, np.nan)
    return np.cumsum(np.bincount(at, minlength=recordings)[:recordings]) / len(at)


def stability_time(frozen: Float[np.ndarray, " recordings"]) -> float:
    """The first recording after which at most a tenth of the pairs flip; NaN where no pair has a sign."""
    return float("nan") if np.isnan(frozen).any() else float(np.argmax(frozen >= 0.9))
