"""Values with their 95 % intervals: over seeds, or for one seed by the known spread between seeds.

A claim is about training such a network, so its uncertainty is the spread between networks trained from different
seeds. An interval over the neurons or test images of one network would be too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from neuron_mech.lazily import stats

LEVEL = 0.95
"""Level of all intervals."""

DRAWS = 2000
"""Draws of a bootstrap."""


class Estimate(NamedTuple):
    """A value with its interval, and the standard deviation between seeds that the interval comes from."""

    value: float
    low: float
    high: float
    deviation: float
    """Between seeds; NaN where it is not known."""
    seeds: int

    @property
    def over(self) -> str:
        """What the interval is over, in words."""
        if self.seeds > 1:
            return f"{self.seeds} seeds"
        known = np.isfinite(self.deviation)
        return "one run" + (", ±2 standard deviations between the seeds of digits" if known else "")

    def entry(self) -> dict:
        """The value as in claims.json."""
        return self._asdict() | {"over": self.over}

    def p_on_the_other_side(self, threshold: float, relation: str) -> float:
        """One-sided p-value of the hypothesis that the true value is on the right side of the threshold.

        `relation` is the right side: ">" above, "<" below. It is computed by Student's t over seeds, by the normal
        distribution for one seed, and is 1 where the spread between seeds is unknown.
        """
        gap = threshold - self.value if relation == ">" else self.value - threshold
        if self.seeds > 1:
            error = self.deviation / np.sqrt(self.seeds)
            if error == 0:
                return float(gap <= 0)
            return float(stats.t.sf(gap / error, self.seeds - 1))
        if not self.deviation > 0:
            return 1.0
        return float(stats.norm.sf(gap / self.deviation))


def mean(values: Float[np.ndarray, "*values"]) -> float:
    """Mean of the finite values; NaN where there is none."""
    kept = np.asarray(values, np.float64)
    kept = kept[np.isfinite(kept)]
    return float(kept.mean()) if len(kept) else float("nan")


def estimate(by_seed: Sequence[float] | np.ndarray, deviation: float = float("nan"), level: float = LEVEL) -> Estimate:
    """The mean of one value a seed with Student's t interval; of one seed, its value ± 2 x `deviation`.

    `deviation` is the known standard deviation between seeds; the interval of one seed is infinite where it is NaN.
    Seeds whose value is NaN are left out. Raises ValueError where no seed has a value.
    """
    values = np.asarray(by_seed, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        raise ValueError("no seed has a value")
    value = float(values.mean())
    if len(values) == 1:
        half = 2 * deviation if np.isfinite(deviation) else float("inf")
        return Estimate(value, value - half, value + half, float(deviation), 1)
    spread = float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * spread / np.sqrt(len(values))
    return Estimate(value, value - half, value + half, spread, len(values))


def bootstrapped(
    one: Sequence[Float[np.ndarray, " neurons"]], other: Sequence[Float[np.ndarray, " neurons"]]
) -> Estimate:
    """Difference of two networks' means, by a hierarchical bootstrap: seeds are drawn, then neurons within each.

    The interval is of percentiles, and infinite for one seed. With n seeds it is too narrow by a factor of about the
    square root of (n - 1) / n. `deviation` is the bootstrap's standard deviation times the square root of n.
    """
    parts = [[np.asarray(v)[np.isfinite(v)] for v in part] for part in (one, other)]
    value = float(np.mean([v.mean() for v in parts[0]]) - np.mean([v.mean() for v in parts[1]]))
    seeds = min(map(len, parts))
    if seeds < 2:
        return Estimate(value, float("-inf"), float("inf"), float("nan"), 1)
    rng = np.random.default_rng(0)

    def drawn(networks: list[np.ndarray]) -> np.ndarray:
        # The mean of n draws of a neuron is close to normal; its two moments are the neurons' own.
        of = np.array([(v.mean(), v.std() / np.sqrt(len(v))) for v in networks])
        chosen = of[rng.integers(len(networks), size=(DRAWS, len(networks)))]
        return rng.normal(chosen[..., 0], chosen[..., 1]).mean(1)

    differences = drawn(parts[0]) - drawn(parts[1])
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), float(differences.std() * np.sqrt(seeds)), seeds)


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm, 1979): the k-th smallest of n times n - k + 1, made monotone."""
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(np.maximum.accumulate([(len(p) - k) * p[i] for k, i in enumerate(order)]), 1.0)
    found = np.empty(len(p))
    found[order] = adjusted
    return found.tolist()
