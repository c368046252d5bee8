"""The tally of gradient signs: how often each sample's derivative at each neuron was positive, negative, and flipped.

A tally holds three small integers for every (sample, position ..., neuron), whatever the number of recordings. Zero
derivatives do not count. Neither do infinite or NaN ones, but their number is kept for each sample.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from neuron_mech.lazily import stats


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
    """An empty tally of this shape, (samples, positions ..., neurons), with room for `recordings` recordings."""
    # Three arrays, not the same one thrice, since their buffers are donated.
    positive, negative, trail = (jnp.zeros(shape, count_type(recordings)) for _ in range(3))
    return Tally(positive, negative, trail, jnp.zeros(shape[0], jnp.int32))


def signs(gradient: Num[Array | np.ndarray, "*values"]) -> Int[Array, "*values"]:
    """The signs of derivatives as int8: -1, 0 or 1, or NOT_FINITE. Signs instead of derivatives stay as they are."""
    sign = jnp.asarray(gradient > 0, jnp.int8) - jnp.asarray(gradient < 0, jnp.int8)
    lost = ~jnp.isfinite(gradient) if jnp.issubdtype(gradient.dtype, jnp.floating) else gradient == NOT_FINITE
    return jnp.where(lost, jnp.int8(NOT_FINITE), sign)


def update(tally: Tally, gradient: Num[Array, " samples *values"]) -> Tally:
    """The tally after one more recording of all its samples, from their derivatives or their signs."""
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
    """(positive - negative) / (positive + negative), in [-1, 1]; NaN where there is no nonzero recording."""
    up, down = jnp.asarray(positive, jnp.float32), jnp.asarray(negative, jnp.float32)
    # 0 / 0 is the definition of "no sign was ever seen", and stays NaN on purpose.
    return (up - down) / (up + down)


CONSTANT = Fraction(9, 10)
"""A (sample, neuron) pair is constant when its |average sign| exceeds this."""

BIN_EDGES = np.linspace(-1, 1, 21)
"""Edges of an average-sign histogram. A value on an edge falls in the bin above it, 1 in the last."""


@jax.jit
def constant_counts(positive: Pairs, negative: Pairs) -> tuple[Int[Array, " neurons"], Int[Array, " neurons"]]:
    """Per neuron, the (sample, position) pairs with |average sign| > CONSTANT, and those with any nonzero recording.

    Constancy is the first over the second. In integers, so that an average of exactly 0.9 is not above 0.9.
    """
    lead, recorded = _by_neuron(positive, negative)
    return (CONSTANT.denominator * jnp.abs(lead) > CONSTANT.numerator * recorded).sum(0, dtype=jnp.int32), (
        recorded > 0
    ).sum(0, dtype=jnp.int32)


LEVELS = (0.9, 0.99, 1.0)
"""Levels of |average sign| for `constancy_curve`."""


def constancy_curve(positive: Pairs, negative: Pairs) -> Float[np.ndarray, " levels"]:
    """Share of the pairs with any nonzero recording whose |average sign| is at least each of LEVELS, exactly.

    NaN where no pair has one.
    """
    reached, ever = map(np.asarray, _reached(positive, negative))
    return np.array([int(of) / int(ever) if ever else np.nan for of in reached])


@jax.jit
def _reached(
    positive: Int[Array | np.ndarray, "samples *positions neurons"],
    negative: Int[Array | np.ndarray, "samples *positions neurons"],
) -> tuple[Int[Array, " levels"], Int[Array, ""]]:
    """(pairs whose |average sign| is at least each of LEVELS, pairs with any nonzero recording)."""
    lead, recorded = _by_neuron(positive, negative)
    ever = recorded > 0
    reached = [((100 * jnp.abs(lead) >= round(100 * level) * recorded) & ever).sum() for level in LEVELS]
    return jnp.stack(reached), ever.sum()


DEPTH = 50
"""Number of nonzero recordings at which `rarefied_constancy` compares all pairs."""


def rarefied_constancy(tally: Tally) -> Float[np.ndarray, " neurons"]:
    """Expected constancy of each neuron's pairs if DEPTH of the nonzero recordings of each pair are drawn at random.

    |average sign| of few recordings is large by chance, and max pooling leaves some layers fewer nonzero ones than
    others, so layers are compared at one depth (rarefaction, as ecologists compare samples of unequal size). A pair
    with n >= 50 nonzero recordings, k of them positive, counts P(X <= 2 or X >= 48), X ~ Hypergeometric(n, k, 50): with
    at most 2 of 50 signs different from the others, |average sign| is above 0.9. Pairs with fewer recordings are left
    out; NaN for a neuron without other pairs. On the host.
    """
    positive, negative = (np.asarray(part).reshape(-1, part.shape[-1]) for part in (tally.positive, tally.negative))
    recorded = positive + negative
    most = -(-DEPTH // 20) - 1  # the largest d with DEPTH - 2 d > 0.9 DEPTH
    deep = recorded >= DEPTH
    # The rarer sign decides, and most pairs share a few of all (n, k): each is computed once.
    kinds, which = np.unique(
        recorded[deep].astype(np.int64) << 32 | np.minimum(positive, recorded - positive)[deep], return_inverse=True
    )
    n, k = kinds >> 32, kinds & (2**32 - 1)
    chance = stats.hypergeom.cdf(most, n, k, DEPTH) + stats.hypergeom.sf(DEPTH - most - 1, n, k, DEPTH)
    of_pair = np.zeros(recorded.shape)
    of_pair[deep] = chance[which]
    with np.errstate(invalid="ignore"):
        return of_pair.sum(0) / deep.sum(0)


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
    """Counts of each neuron over all samples and positions. Pure; jit it."""
    constant, ever = constant_counts(tally.positive, tally.negative)
    lead, recorded = _by_neuron(tally.positive, tally.negative)
    return NeuronCounts(
        constant,
        ever,
        (lead > 0).sum(0, dtype=jnp.int32),
        # Over all pairs these can exceed 32-bit integers.
        tally.flips.reshape(lead.shape).sum(0, dtype=jnp.float32),
        jnp.maximum(recorded - 1, 0).sum(0, dtype=jnp.float32),
    )


def independent_constancy(tally: Tally) -> Float[np.ndarray, " neurons"]:
    """Expected constancy of each neuron if its recordings were independent, for comparison.

    Each recording of a pair positive with the neuron's own share p of positive ones, a pair of n nonzero recordings is
    constant with probability P(|2K - n| > CONSTANT n), K ~ Binomial(n, p); the mean over pairs. On the host.
    """
    positive, negative = (np.asarray(part).reshape(-1, part.shape[-1]) for part in (tally.positive, tally.negative))
    recorded = positive + negative
    neurons = recorded.shape[1]
    with np.errstate(invalid="ignore"):
        share = positive.sum(0, dtype=np.int64) / recorded.sum(0, dtype=np.int64)
    expected, pairs = np.zeros(neurons), np.zeros(neurons)
    # How many pairs of each neuron have n nonzero recordings: (neurons, n).
    most = int(recorded.max(initial=0))
    often = np.stack([np.bincount(of, minlength=most + 1) for of in recorded.T])
    for n in range(1, most + 1):
        if (many := often[:, n]).any():
            # 2K - n > CONSTANT n and 2K - n < -CONSTANT n, as K > above and K < below, in integers.
            above, below = math.floor((1 + CONSTANT) * n / 2), math.ceil((1 - CONSTANT) * n / 2)
            tails = stats.binom.sf(above, n, share) + stats.binom.cdf(below - 1, n, share)
            expected += np.where(many > 0, many * tails, 0.0)
            pairs += many
    with np.errstate(invalid="ignore"):
        return expected / pairs


def histograms(positive: Pairs, negative: Pairs) -> Int[Array, "neurons bins"]:
    """By neuron, the number of pairs with an average sign in each bin of BIN_EDGES; pairs without one are left out."""
    lead, recorded = _by_neuron(positive, negative)
    ever = recorded > 0

    def at_least(tenths: jax.Array) -> jax.Array:
        return (ever & (10 * lead >= tenths * recorded)).sum(0, dtype=jnp.int32)

    above = jax.lax.map(at_least, jnp.arange(-10, 11))
    return (above[:-1] - above[1:]).at[-1].add(above[-1]).T


def disagreement(one: Tally, other: Tally) -> Float[Array, ""]:
    """Share of pairs whose category (the sign of the average sign, zero for none) differs between two tallies."""
    sign = lambda t: jnp.sign(_by_neuron(t.positive, t.negative)[0])  # noqa: E731
    return (sign(one) != sign(other)).mean(dtype=jnp.float32)


def _by_neuron(positive: Array | np.ndarray, negative: Array | np.ndarray) -> tuple[jax.Array, jax.Array]:
    """(positive - negative, positive + negative) as int32 of shape (pairs, neurons)."""
    neurons = positive.shape[-1]
    up, down = (jnp.asarray(a, jnp.int32).reshape(-1, neurons) for a in (positive, negative))
    return up - down, up + down
