"""Time series of the signs of some pairs: is a layer's signal noise, a lasting preference, or one that drifts?

A trace has shape (recordings, pairs) and holds -1, 0 or 1; zeros do not count as recordings. All functions work on host
arrays, in float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Trace = Int[np.ndarray, "recordings pairs"]


def autocorrelation(trace: Trace, lags: Sequence[int]) -> Float[np.ndarray, " lags"]:
    """Correlation of s(t) with s(t + k), over all pairs and recordings t at which both are nonzero, for each lag k.

    1 for signs that never turn. NaN where all signs are the same, or none is nonzero.
    """
    signs = trace.astype(np.float64)
    return np.array([_correlation(signs[: len(signs) - lag].ravel(), signs[lag:].ravel(), True) for lag in lags])


def average(trace: Trace) -> Float[np.ndarray, " pairs"]:
    """Average sign of each pair over its nonzero recordings; NaN where it has none."""
    counted = np.abs(trace).sum(0, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        return trace.sum(0, dtype=np.int64) / counted


def windows(trace: Trace, count: int = 10) -> Float[np.ndarray, "count pairs"]:
    """Average signs in `count` stretches of the recordings, whose lengths differ by at most one."""
    return np.stack([average(part) for part in np.array_split(trace, count)])


def reliability(one: Float[np.ndarray, " pairs"], other: Float[np.ndarray, " pairs"]) -> float:
    """Pearson correlation over pairs of two averages, of pairs that have both. NaN where either does not vary."""
    return _correlation(one, other)


def between_windows(trace: Trace, count: int = 10) -> Float[np.ndarray, "count count"]:
    """`reliability` between every two of `count` stretches of the recordings."""
    of = windows(trace, count)
    return np.array([[reliability(a, b) for b in of] for a in of])


def halves(trace: Trace) -> float:
    """`reliability` between odd and even recordings, which differ by noise only."""
    return reliability(average(trace[::2]), average(trace[1::2]))


class Split(NamedTuple):
    """Variance over pairs of the average sign, and the parts it is the sum of."""

    variance: float
    noise: float
    """What odd and even recordings do not share: a quarter of the variance of their difference."""
    constant: float
    """What the first and the last tenth of the recordings share: their covariance."""
    drift: float
    """What odd and even recordings share and the first and last tenth do not. Below 0 where the ends agree better."""


def variance_split(trace: Trace) -> Split:
    """Var(m) = noise + constant + drift, with m the mean of the average signs of odd and of even recordings.

    With these, o and e: Var(m) = Var(o - e) / 4 + Cov(o, e), exactly; the covariance is what lasts longer than one
    recording, and of it Cov(first tenth, last tenth) is what lasts all training. Noise that lasts several recordings
    counts as drift. Of pairs that have a sign in all four.
    """
    tenth = max(1, len(trace) // 10)
    parts = np.stack([average(part) for part in (trace[::2], trace[1::2], trace[:tenth], trace[-tenth:])])
    odd, even, first, last = parts[:, np.isfinite(parts).all(0)]
    if odd.size < 2:
        return Split(*4 * (float("nan"),))
    variance, noise = float(np.var((odd + even) / 2)), float(np.var(odd - even) / 4)
    constant = float(np.cov(first, last, ddof=0)[0, 1])
    return Split(variance, noise, constant, variance - noise - constant)


def _correlation(one: np.ndarray, other: np.ndarray, nonzero: bool = False) -> float:
    both = (one != 0) & (other != 0) if nonzero else np.isfinite(one) & np.isfinite(other)
    a, b = one[both], other[both]
    if a.size < 2 or not a.std() or not b.std():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
