"""Means and differences with their 95 % intervals: over seeds where there are several, else over neurons or samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from neuron_mech.lazily import stats

ByNeuron = Float[np.ndarray, " neurons"]


class Estimate(NamedTuple):
    """A mean with its 95 % interval, and what it is over."""

    value: float
    low: float
    high: float
    over: str


def estimate(by_seed: Sequence[ByNeuron]) -> Estimate:
    """Mean over seeds of the mean over neurons, NaN left out; one array of neurons a seed."""
    kept = [values[np.isfinite(values)] for values in (np.asarray(v, np.float64) for v in by_seed)]
    sample = np.array([values.mean() for values in kept]) if len(kept) > 1 else kept[0]
    over = f"{len(kept)} seeds" if len(kept) > 1 else f"{len(sample)} neurons, one seed"
    return _student(sample, over)


def lead(one: Sequence[ByNeuron], other: Sequence[ByNeuron]) -> Estimate:
    """Mean difference, neuron by neuron where both have the same, and by seed where there are several."""
    if len(one) > 1:
        means = [np.nanmean(a) - np.nanmean(b) for a, b in zip(one, other, strict=True)]
        return _student(np.array(means), f"{len(means)} seeds")
    (a,), (b,) = one, other
    if len(a) == len(b):
        return estimate([np.asarray(a) - np.asarray(b)])
    return lead_of_others(one, other)


def lead_of_others(one: Sequence[ByNeuron], other: Sequence[ByNeuron]) -> Estimate:
    """Mean difference between neurons of two sites or networks, which are no pairs (Welch's interval)."""
    if len(one) > 1:
        return lead(one, other)
    a, b = (np.asarray(part[0], np.float64) for part in (one, other))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    over = f"{len(a)} and {len(b)} neurons, one seed"
    return Estimate(float(a.mean() - b.mean()), float(interval.low), float(interval.high), over)


def accuracy(by_seed: Sequence[float] | np.ndarray, samples: int) -> Estimate:
    """A test accuracy, or a mean of several on the same samples."""
    values = np.asarray(by_seed, np.float64)
    if len(values) > 1:
        return _student(values, f"{len(values)} seeds")
    interval = stats.binomtest(round(values[0] * samples), samples).proportion_ci(method="wilson")
    return Estimate(float(values[0]), float(interval.low), float(interval.high), f"{samples:,} test samples, one seed")


def accuracy_lead(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray, samples: int) -> Estimate:
    """Difference of two accuracies. For one seed as if of different samples, which errs on the wide side."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if len(a) > 1:
        return _student(a - b, f"{len(a)} seeds")
    value = float(a[0] - b[0])
    deviation = float(np.sqrt((a[0] * (1 - a[0]) + b[0] * (1 - b[0])) / samples))
    half = float(stats.norm.ppf(0.975)) * deviation
    return Estimate(value, value - half, value + half, f"{samples:,} test samples, one seed")


def _student(sample: np.ndarray, over: str) -> Estimate:
    """Mean and its 95 % t interval; a sample of one, or all alike, has no width that could be known."""
    value = float(sample.mean())
    if len(sample) < 2:
        return Estimate(value, float("-inf"), float("inf"), over)
    half = float(stats.t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
    return Estimate(value, value - half, value + half, over)


def minus(one: Estimate, other: Estimate) -> Estimate:
    """Difference of two estimates that do not depend on each other."""
    value = one.value - other.value
    spread = float(np.hypot((one.high - one.low) / 2, (other.high - other.low) / 2))
    return Estimate(value, value - spread, value + spread, one.over)


def twice(one: Estimate) -> Estimate:
    """An estimate of twice as much."""
    return Estimate(2 * one.value, 2 * one.low, 2 * one.high, one.over)
