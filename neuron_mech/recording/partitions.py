"""A neuron's two categories of samples, and how far they come apart. What predicts them is in `predictors`.

A pair of a sample and a neuron is *low* where its average sign is positive, since the activation should go down, and
*high* where it is negative. Categories are arrays of +1 (low), -1 (high) and 0 (no sign, or as many of either: left out
of everything here).

Measures of values over time work on the host, on arrays (recordings, samples, neurons), one recording after another.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from neuron_mech.lazily import stats
from neuron_mech.recording.counting import Tally

Values = Float[np.ndarray, "recordings samples neurons"]
"""Pre-activations over time."""
Category = Int[np.ndarray, "samples neurons"]
"""The category of each sample, by neuron."""
OfPairs = Int[Array | np.ndarray, "samples *positions neurons"]
"""The category of each pair."""

LOW, HIGH = 1, -1

OVERLAP_BINS = 20
"""Bins of equal occupancy in which `separation` compares the two distributions."""


def categories(
    positive: Int[Array | np.ndarray, "*values"], negative: Int[Array | np.ndarray, "*values"]
) -> Int[Array, "*values"]:
    """The category of every pair: the sign of its average sign, from the counts of a tally.

    Arguments:
        positive: number of positive recordings of each pair.
        negative: number of negative ones, of the same shape.

    Returns int8 of that shape: +1 low, -1 high, and 0 where there are as many of either, or none at all.

    >>> import numpy as np
    >>> from neuron_mech.recording import partitions
    >>> partitions.categories(np.array([3, 1, 2, 0]), np.array([1, 3, 2, 0])).tolist()
    [1, -1, 0, 0]
    """
    return jnp.asarray(positive > negative, jnp.int8) - jnp.asarray(positive < negative, jnp.int8)


def disagreement(one: Tally, other: Tally) -> Float[Array, ""]:
    """Share of pairs whose category, with none as a third, differs between two tallies."""
    kinds, others = (categories(of.positive, of.negative) for of in (one, other))
    return (kinds != others).mean(dtype=jnp.float32)


# --- How far the categories come apart --------------------------------------------------------------------------------


class Separation(NamedTuple):
    """How far high lies above low, by recording and neuron; NaN where a category is empty.

    `auc`: area under the ROC curve, the probability that a random high sample's value exceeds a random low one's, ties
    counting half (the Mann-Whitney U statistic over the number of pairs). 1/2 is no separation, 1 a complete one.
    `overlap`: overlapping coefficient, the integral of the smaller of the two densities (Inman and Bradley, 1989), over
    bins of equal occupancy; 1 where the distributions are the same, 0 where they are apart. Finite samples bias it
    downwards: compare it with that of categories dealt at random.

    Both depend on the order of the values alone: no translation or scaling of a neuron's values changes them.
    """

    auc: Float[np.ndarray, "recordings neurons"]
    overlap: Float[np.ndarray, "recordings neurons"]


def separation(values: Values, category: Category) -> Separation:
    """How far the two categories of each neuron have come apart, at every recording.

    Arguments:
        values: pre-activations of shape (recordings, samples, neurons).
        category: +1 low, -1 high, 0 for samples that are left out; of shape (samples, neurons), one for all recordings.

    Returns `Separation`, with `auc` and `overlap`, float64 of shape (recordings, neurons). Both are NaN for a neuron
    with a category that no sample is in, and at a recording where a value is infinite or no number. Time is that of
    sorting every neuron's values at every recording.

    >>> import numpy as np
    >>> from neuron_mech.recording import partitions
    >>> start, end = [0.0, 3.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]  # one neuron, four samples, the first two of them low
    >>> values, category = np.array([start, end])[..., None], np.array([1, 1, -1, -1])[:, None]
    >>> partitions.separation(values, category).auc.tolist()
    [[0.5], [1.0]]
    """
    low, high = category == LOW, category == HIGH
    n_low, n_high = low.sum(0), high.sum(0)
    neurons = category.shape[1]
    first_bin = np.arange(neurons) * OVERLAP_BINS
    auc, overlap = np.full((2, len(values), neurons), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):  # an empty category makes NaN
        for row, found in enumerate(values):
            finite = (np.isfinite(found) | (category == 0)).all(0)
            # Samples without a category get the last ranks, so that they do not change the others'.
            ranks = stats.rankdata(np.where((category == 0) | ~finite, np.inf, found), axis=0)
            auc[row] = (np.where(high, ranks, 0).sum(0) - n_high * (n_high + 1) / 2) / (n_low * n_high)
            bins = np.minimum((ranks - 0.5) * OVERLAP_BINS // np.maximum(n_low + n_high, 1), OVERLAP_BINS - 1)
            cell = first_bin + bins.astype(np.int64)
            of_low, of_high = (
                np.bincount(cell[which], minlength=neurons * OVERLAP_BINS).reshape(neurons, OVERLAP_BINS)
                / which.sum(0)[:, None]
                for which in (low, high)
            )
            overlap[row] = np.minimum(of_low, of_high).sum(1)
            auc[row, ~finite] = overlap[row, ~finite] = np.nan
    return Separation(auc, overlap)


PARTS = ("translation", "scaling", "separation", "reordering within categories")
"""The parts that `change_parts` splits a change into."""


def change_parts(values: Values, category: Category) -> Float[np.ndarray, "recordings parts neurons"]:
    """How a neuron's values have changed since the first recording: by translation, scaling, separation, or reordering.

    With m, s the mean and standard deviation over samples and u = (z - m) / s, exactly (as forecasts are split from
    what they forecast by Murphy, 1988)

        E (z_t - z_0)^2  =  (m_t - m_0)^2  +  (s_t - s_0)^2  +  s_t s_0 E (u_t - u_0)^2:

    the distribution moves as a whole, widens as a whole, and samples change places in it. The last term is split by the
    law of total variance: the part between the categories is what brings them apart, the rest is reordering within.

    Arguments:
        values: pre-activations of shape (recordings, samples, neurons).
        category: +1 low, -1 high, of shape (samples, neurons); samples with 0 are left out of every mean.

    Returns shares of the mean squared change, in the order of PARTS, which add up to 1: float64 of shape
    (recordings, 4, neurons). NaN where nothing has changed, so always at the first recording.

    >>> import numpy as np
    >>> from neuron_mech.recording import partitions
    >>> start, category = np.array([-1.0, 1.0, -1.0, 1.0]), np.array([1, 1, -1, -1])[:, None]
    >>> values = np.stack([start, start + 3, 2 * start, [-1.0, -1.0, 1.0, 1.0]])[..., None]
    >>> partitions.change_parts(values, category)[1:, :, 0].tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    members = [category == kind for kind in (LOW, HIGH)]
    sizes = [which.sum(0) for which in members]
    total = np.maximum(sum(sizes), 1)

    def sums(found: np.ndarray) -> list[np.ndarray]:
        return [np.where(which, found, 0).sum(0) for which in members]

    def standardized(found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = found.astype(np.float64)
        m = sum(sums(found)) / total
        s = np.sqrt(sum(sums((found - m) ** 2)) / total)
        return m, s, (found - m) / np.where(s > 0, s, 1)

    m_0, s_0, u_0 = standardized(values[0])
    shares = np.full((len(values), len(PARTS), category.shape[1]), np.nan)
    for row, found in enumerate(values):
        m, s, u = standardized(found)
        moved = u - u_0
        between = sum(part**2 / np.maximum(n, 1) for part, n in zip(sums(moved), sizes, strict=True)) / total
        within = sum(sums(moved**2)) / total - between
        parts = np.stack([(m - m_0) ** 2, (s - s_0) ** 2, s * s_0 * between, s * s_0 * within])
        with np.errstate(invalid="ignore"):
            shares[row] = parts / parts.sum(0)
    return shares


VARIANCE_PARTS = ("values at the start", "category", "neither")
"""The parts that `variance_parts` splits a distribution's variance into."""


def variance_parts(values: Values, category: Category) -> Float[np.ndarray, "recordings parts neurons"]:
    """What explains the variance of a neuron's values over samples: their values at the start, or the category.

    First what a linear function of the values at the first recording explains (R^2 = r^2): all of it where the
    distribution was only translated and scaled. Then what the category explains beyond (the increment of R^2 when it
    joins the regression, as in an analysis of covariance), and what neither does. Unlike `change_parts` it does not
    count as scaling what is new variance.

    Arguments:
        values: pre-activations of shape (recordings, samples, neurons).
        category: +1 low, -1 high, of shape (samples, neurons); samples with 0 are left out. Where all are in one
            category, it explains nothing.

    Returns shares of the variance at each recording, in the order of VARIANCE_PARTS, which add up to 1: float64 of
    shape (recordings, 3, neurons). NaN for a neuron whose values, at the start or now, are all the same.

    >>> import numpy as np
    >>> from neuron_mech.recording import partitions
    >>> start, category = np.array([-1.0, 1.0, -1.0, 1.0]), np.array([1, 1, -1, -1])[:, None]
    >>> values = np.stack([start, 2 * start + 3, [-1.0, -1.0, 1.0, 1.0]])[..., None]
    >>> partitions.variance_parts(values, category)[:, :, 0].tolist()
    [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    counted = category != 0
    number = np.maximum(counted.sum(0), 1)

    def standardized(found: np.ndarray) -> np.ndarray:
        """Mean 0 and standard deviation 1 over the samples that have a category; 0 for the others."""
        found = found.astype(np.float64)
        centred = np.where(counted, found - np.where(counted, found, 0).sum(0) / number, 0)
        # The mean of equal values is rounded, and what is left of them would be divided by itself.
        highest = np.where(counted, found, -np.inf).max(0, initial=-np.inf)
        alike = highest == np.where(counted, found, np.inf).min(0, initial=np.inf)
        return np.where(alike, np.nan, centred / np.sqrt((centred**2).sum(0) / number))

    def correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one * other).sum(0) / number

    shares = np.full((len(values), len(VARIANCE_PARTS), category.shape[1]), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):  # values that are all the same make NaN
        start = standardized(values[0])
        kind = np.nan_to_num(standardized(category))  # one category explains nothing
        before = correlation(start, kind)
        for row, found in enumerate(values):
            now = standardized(found)
            from_start = correlation(now, start)
            # The part of the category that the start does not explain.
            beyond = correlation(now, kind) - from_start * before
            added = np.where(before**2 > 1 - 1e-12, 0.0, beyond**2 / (1 - before**2))
            parts = np.stack([from_start**2, added, 1 - from_start**2 - added])
            shares[row] = np.where(np.isnan(from_start), np.nan, parts)
    return shares


def finally_highest(
    final: Float[np.ndarray, "samples neurons"], category: Category
) -> Bool[np.ndarray, "samples neurons"]:
    """The tenth of the high category with the highest final values: the paper's yellow samples."""
    high = category == HIGH
    order = stats.rankdata(np.where(high, -final, np.inf), method="ordinal", axis=0)
    return high & (order <= np.ceil(0.1 * high.sum(0)))


def mean_rank(values: Values, which: Bool[np.ndarray, "samples neurons"]) -> Float[np.ndarray, "recordings neurons"]:
    """Mean percentile rank, 0 to 100, of some samples among all, at every recording; NaN where there are none."""
    number = which.sum(0)
    with np.errstate(invalid="ignore"):
        return np.stack(
            [100 * (np.where(which, stats.rankdata(v, axis=0) - 0.5, 0).sum(0) / number) / len(v) for v in values]
        )


def atlas(
    positive: Int[np.ndarray, " samples"],
    negative: Int[np.ndarray, " samples"],
    flips: Int[np.ndarray, " samples"],
    places: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "3 places"]:
    """Rows of one neuron's most constantly low samples, most constantly high ones, and those that flip most.

    Constancy is |average sign|; ties, of which there are many, are broken at random. -1 for places without a sample.
    """
    recorded = np.maximum(positive + negative, 1)
    average = (positive - negative) / recorded
    chance = rng.permutation(len(average))
    sheets = np.full((3, places), -1)
    for sheet, score, member in (
        (sheets[0], average, positive > negative),
        (sheets[1], -average, positive < negative),
        (sheets[2], flips / recorded, flips > 0),
    ):
        order = np.lexsort((chance, -score))
        found = order[member[order]][:places]
        sheet[: len(found)] = found
    return sheets
