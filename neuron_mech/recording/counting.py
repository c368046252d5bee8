"""The tally of gradient signs: how often each sample's derivative at each neuron was positive, negative, and flipped.

A tally holds three small integers for every (sample, position ..., neuron), whatever the number of recordings. Zero
derivatives do not count. Neither do infinite or NaN ones, but their number is kept for each sample.
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num


class Tally(struct.PyTreeNode):
    """Counts of one site. All arrays have shape (samples, positions ..., neurons).

    `trail` is the sign of the last nonzero derivative times (1 + the number of sign flips between consecutive nonzero
    ones); 0 before the first. One number instead of two saves a third of the memory.
    """

    # Any: arrays, or the shapes of arrays that are yet to be allocated.
    positive: Int[Any, " samples *values"]
    negative: Int[Any, " samples *values"]
    trail: Int[Any, " samples *values"]
    not_finite: Int[Any, " samples"] | None = None
    """Number of infinite or NaN derivatives of each sample over all recordings; None where it is not known."""

    def part(self, index: Any) -> Tally:
        """The tally of a part of its pairs, by numpy indexing."""
        return Tally(self.positive[index], self.negative[index], self.trail[index])

    @property
    def flips(self) -> Int[Array | np.ndarray, " samples *values"]:
        """Sign changes between consecutive nonzero recordings."""
        return jnp.maximum(jnp.abs(self.trail) - 1, 0)

    @property
    def recorded(self) -> Int[Array | np.ndarray, " samples *values"]:
        """Nonzero recordings."""
        return self.positive + self.negative


Pairs = Int[Array | np.ndarray, "samples *positions neurons"]
"""Counts of recordings of every pair."""

NOT_FINITE = 2
"""The value among signs for an infinite or NaN derivative."""


def count_type(recordings: int) -> np.dtype:
    """The smallest signed integer type that counts this many recordings."""
    return next(np.dtype(t) for t in (np.int8, np.int16, np.int32) if recordings < np.iinfo(t).max)


def empty(shape: tuple[int, ...], recordings: int) -> Tally:
    """The tally of a site before its first recording: all counts are 0.

    Arguments:
        shape: (samples, positions ..., neurons).
        recordings: how many there will be at most. The integers are as small as that allows: int8 up to 126, int16 up
            to 32,766, int32 up to 2,147,483,646.

    Returns a Tally on JAX's default device, of 3, 6 or 12 bytes a (sample, position, neuron) and 4 bytes a sample.

    >>> from neuron_mech.recording import counting
    >>> counting.empty((500, 64), recordings=100).positive.dtype
    dtype('int8')
    """
    # Three arrays, not the same one thrice, since their buffers are donated.
    positive, negative, trail = (jnp.zeros(shape, count_type(recordings)) for _ in range(3))
    return Tally(positive, negative, trail, jnp.zeros(shape[0], jnp.int32))


def signs(gradient: Num[Array | np.ndarray, "*values"]) -> Int[Array, "*values"]:
    """The signs of derivatives as int8: -1, 0 or 1, or NOT_FINITE. Signs instead of derivatives stay as they are."""
    sign = jnp.asarray(gradient > 0, jnp.int8) - jnp.asarray(gradient < 0, jnp.int8)
    lost = ~jnp.isfinite(gradient) if jnp.issubdtype(gradient.dtype, jnp.floating) else gradient == NOT_FINITE
    return jnp.where(lost, jnp.int8(NOT_FINITE), sign)


def update(tally: Tally, gradient: Num[Array, " samples *values"]) -> Tally:
    """The tally after one more recording of all its samples, from their derivatives or their signs.

    Pure; jit it, and donate the tally where its memory matters. Zeros change nothing. An infinite or NaN derivative
    does not either, but is counted in `not_finite`.

    Arguments:
        tally: the counts so far, such as `empty` makes. That it has room for one more is checked by recorders, and not
            here: beyond, counts overflow.
        gradient: derivatives of the tally's shape, (samples, positions ..., neurons), in any floating-point type; or
            integers, which are signs as `signs` makes them, of which 2 says that a derivative was not finite. The
            shape is not checked: one that broadcasts to the tally's is counted.

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech.recording import counting
    >>> tally, update = counting.empty((1, 3), recordings=4), jax.jit(counting.update)
    >>> for derivatives in ([0.5, -2.0, 0.0], [0.1, 3.0, 0.0], [0.2, -1.0, jnp.nan]):
    ...     tally = update(tally, jnp.array([derivatives]))
    >>> tally.positive.tolist(), tally.negative.tolist(), tally.flips.tolist(), tally.not_finite.tolist()
    ([[3, 1, 0]], [[0, 2, 0]], [[0, 2, 0]], [1])
    """
    kind = tally.trail.dtype
    # The barrier has the bytes made once; without it each of the counts would read all floats again, at twice the time.
    seen = jax.lax.optimization_barrier(signs(gradient))
    lost = (seen == NOT_FINITE).sum(axis=tuple(range(1, seen.ndim)), dtype=jnp.int32)
    sign = jnp.where(seen == NOT_FINITE, jnp.int8(0), seen).astype(kind)
    turned = tally.trail * sign < 0
    # From +3 a negative sign leads to -4: the trail's own sign turns and its length grows by one.
    trail = jnp.where(turned, sign - tally.trail, jnp.where(tally.trail == 0, sign, tally.trail))
    return Tally(
        positive=tally.positive + (sign > 0).astype(kind),
        negative=tally.negative + (sign < 0).astype(kind),
        trail=trail,
        not_finite=None if tally.not_finite is None else tally.not_finite + lost,
    )


def update_rows(tally: Tally, gradient: Num[Array, " rows *values"], start: Int[Array | np.integer, ""] | int) -> Tally:
    """`update` of the rows from `start` on, as many as `gradient` has; in place where jit donates the tally."""
    window = jax.tree.map(partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=len(gradient)), tally)
    window = update(window, gradient)
    return jax.tree.map(lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, start, 0), tally, window)


def merged(earlier: Tally, later: Tally) -> Tally:
    """The exact tally of two consecutive stretches of recordings of the same samples.

    The flips of both add up, plus one where the last sign of the earlier stretch differs from the first sign of the
    later one. That is the later one's last sign, inverted if its number of flips is odd. In a type with room for both.
    """
    positive, negative = (np.dtype(t.positive.dtype) for t in (earlier, later))
    kind = count_type(int(np.iinfo(positive).max) + int(np.iinfo(negative).max) - 2)
    before, after = (Tally(*(c.astype(kind) for c in (t.positive, t.negative, t.trail))) for t in (earlier, later))
    last, sign = jnp.sign(before.trail), jnp.sign(after.trail)
    first = jnp.where(after.flips % 2 == 1, -sign, sign)
    flips = before.flips + after.flips + (last * first < 0)
    trail = jnp.where(sign == 0, before.trail, sign * (1 + flips))
    lost = None
    if earlier.not_finite is not None and later.not_finite is not None:
        lost = earlier.not_finite + later.not_finite
    return Tally(before.positive + after.positive, before.negative + after.negative, trail.astype(kind), lost)


@jax.jit
def average_sign(
    positive: Num[Array | np.ndarray, "*values"], negative: Num[Array | np.ndarray, "*values"]
) -> Float[Array, "*values"]:
    """The average sign of every pair, (positive - negative) / (positive + negative).

    1 where the sample always pushed the neuron down (the loss falls when the activation does), -1 where always up.

    Arguments:
        positive: number of positive recordings of each pair.
        negative: number of negative ones, of the same shape.

    Returns float32 in [-1, 1], of that shape; NaN where both are 0, so that no sign was ever seen. It is rounded: to
    ask whether it is above 0.9, use `constant_counts`, which is exact.

    >>> import numpy as np
    >>> from neuron_mech.recording import counting
    >>> counting.average_sign(np.array([3, 5, 0]), np.array([1, 5, 0])).tolist()
    [0.5, 0.0, nan]
    """
    up, down = jnp.asarray(positive, jnp.float32), jnp.asarray(negative, jnp.float32)
    # 0 / 0 is the definition of "no sign was ever seen", and stays NaN on purpose.
    return (up - down) / (up + down)


CONSTANT = Fraction(9, 10)
"""A (sample, neuron) pair is constant when its |average sign| exceeds this."""

BIN_EDGES = np.linspace(-1, 1, 21)
"""Edges of an average-sign histogram. A value on an edge falls in the bin above it, 1 in the last."""


@jax.jit
def constant_counts(positive: Pairs, negative: Pairs) -> tuple[Int[Array, " neurons"], Int[Array, " neurons"]]:
    """Of each neuron, the pairs with |average sign| > 0.9 (CONSTANT), and those with any nonzero recording.

    A pair is a (sample, position). Constancy is the first number over the second; `constancy` divides the sums over
    neurons. In integers, so that an average of exactly 0.9 is not above 0.9.

    Arguments:
        positive: those of a tally, of shape (samples, positions ..., neurons).
        negative: likewise.

    Returns two int32 arrays of shape (neurons,); both are 0 for a neuron whose derivatives were always 0.

    >>> import numpy as np
    >>> from neuron_mech.recording import counting
    >>> up, down = np.array([[18], [20], [0]]), np.array([[2], [0], [0]])  # averages: 0.8, 1 and none
    >>> constant, ever = counting.constant_counts(up, down)
    >>> constant.tolist(), ever.tolist(), counting.constancy(constant, ever)
    ([1], [2], 0.5)
    """
    lead, recorded = by_neuron(positive, negative)
    return (CONSTANT.denominator * jnp.abs(lead) > CONSTANT.numerator * recorded).sum(0, dtype=jnp.int32), (
        recorded > 0
    ).sum(0, dtype=jnp.int32)


def constancy(constant: ArrayLike, ever: ArrayLike) -> float:
    """Share of all pairs, over neurons, from `constant_counts`; NaN where no pair has a sign."""
    total = np.asarray(ever).sum(dtype=np.int64)
    return int(np.asarray(constant).sum(dtype=np.int64)) / int(total) if total else float("nan")


class NeuronCounts(NamedTuple):
    """Counts by neuron from the tally of a site: of (sample, position) pairs, and of recordings."""

    constant: Int[Array | np.ndarray, " neurons"]
    """Pairs with |average sign| > CONSTANT."""
    ever: Int[Array | np.ndarray, " neurons"]
    """Pairs with any nonzero recording."""
    low: Int[Array | np.ndarray, " neurons"]
    """Pairs in the low category: positive average sign, the activation should go down."""
    flips: Float[Array | np.ndarray, " neurons"]
    """Sign changes between consecutive nonzero recordings."""
    chances: Float[Array | np.ndarray, " neurons"]
    """Consecutive pairs of nonzero recordings, the largest possible number of flips."""


def neuron_counts(tally: Tally) -> NeuronCounts:
    """What a tally says of each neuron, over all its samples and positions. Pure; jit it.

    Arguments:
        tally: the counts of one site.

    Returns NeuronCounts, whose arrays have shape (neurons,): `constant / ever` is a neuron's constancy, `low / ever`
    its share of low pairs, `flips / chances` how often its sign changes. Divisors are 0 where there was no derivative
    but 0. `flips` and `chances` are float32, rounded above 16,777,216.

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech.recording import counting
    >>> tally, update = counting.empty((2, 1), recordings=4), jax.jit(counting.update)
    >>> for signs in ([1, 1], [1, -1], [0, 1], [1, -1]):
    ...     tally = update(tally, jnp.array(signs, jnp.float32)[:, None])
    >>> of = jax.jit(counting.neuron_counts)(tally)
    >>> {name: float(count[0]) for name, count in of._asdict().items()}
    {'constant': 1.0, 'ever': 2.0, 'low': 1.0, 'flips': 3.0, 'chances': 5.0}
    """
    constant, ever = constant_counts(tally.positive, tally.negative)
    lead, recorded = by_neuron(tally.positive, tally.negative)
    return NeuronCounts(
        constant,
        ever,
        (lead > 0).sum(0, dtype=jnp.int32),
        # Over all pairs these can exceed 32-bit integers.
        tally.flips.reshape(lead.shape).sum(0, dtype=jnp.float32),
        jnp.maximum(recorded - 1, 0).sum(0, dtype=jnp.float32),
    )


def histograms(positive: Pairs, negative: Pairs) -> Int[Array, "neurons bins"]:
    """By neuron, the number of pairs with an average sign in each bin of BIN_EDGES; pairs without one are left out."""
    lead, recorded = by_neuron(positive, negative)
    ever = recorded > 0

    def at_least(tenths: jax.Array) -> jax.Array:
        return (ever & (10 * lead >= tenths * recorded)).sum(0, dtype=jnp.int32)

    above = jax.lax.map(at_least, jnp.arange(-10, 11))
    return (above[:-1] - above[1:]).at[-1].add(above[-1]).T


def by_neuron(positive: Array | np.ndarray, negative: Array | np.ndarray) -> tuple[jax.Array, jax.Array]:
    """(positive - negative, positive + negative) as int32 of shape (pairs, neurons)."""
    neurons = positive.shape[-1]
    up, down = (jnp.asarray(a, jnp.int32).reshape(-1, neurons) for a in (positive, negative))
    return up - down, up + down
