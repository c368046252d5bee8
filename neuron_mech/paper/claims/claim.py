"""A claim: conditions on measured values, two marks, and which further run would decide what is undecided.

Mark (a), the verdict, is whether the paper's sentence holds. Mark (b) is whether the value beats a null, the same
measure without what the sentence credits, mostly without learning. A null never overturns the sentence.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from neuron_mech.paper.claims.estimates import LEVEL, Estimate, estimate, holm
from neuron_mech.paper.claims.spread import between_seeds

Verdict = Literal["supported", "contradicted", "undecided", "not tested"]
Mark = Literal["yes", "no", "undecided", "not tested"]
Scope = Literal["paper", "beyond"]

WRONG = (1 - LEVEL) / 2
"""One-sided level at which a value counts as on the wrong side."""


@dataclass(frozen=True)
class Null:
    """A value measured where what the claim is about is missing, for comparison."""

    name: str
    value: float
    ahead: Estimate | None
    """How far the measured value is ahead of the null's; None where the null says nothing (its name says why)."""
    decides: bool = True
    """Whether mark (b) depends on this null; others are only shown."""

    @property
    def beaten(self) -> Mark:
        """Yes where the whole interval of `ahead` is above 0, no where it is at or below 0."""
        if self.ahead is None:
            return "not tested"
        return "yes" if self.ahead.low > 0 else "no" if self.ahead.high <= 0 else "undecided"

    def entry(self) -> dict:
        """The null as in claims.json."""
        return dataclasses.asdict(self) | {"ahead": self.ahead and self.ahead.entry(), "beaten": self.beaten}


@dataclass(frozen=True)
class Condition:
    """A measured value, the threshold it is compared with, and its nulls."""

    what: str
    """The measure's name."""
    site: str
    value: Estimate
    relation: Literal[">", "<"]
    threshold: float
    nulls: tuple[Null, ...] = ()
    unit: str = "%"
    scope: Scope = "paper"
    """paper: the sentence is about this site and network, so the condition decides. beyond: it is only shown."""
    curve: tuple[tuple[float, float], ...] = ()
    """(level, value) pairs, mean over seeds, for measures that depend on a level."""
    curve_of: str = ""
    """Name of the curve's level."""
    adjusted: float = 1.0
    """P-value of the condition, adjusted for the number of the claim's deciding conditions (Holm)."""

    @property
    def holds(self) -> Mark:
        """Yes where the whole interval is on the right side of the threshold; no where `adjusted` is below WRONG."""
        right = self.value.low > self.threshold if self.relation == ">" else self.value.high < self.threshold
        return "yes" if right else "no" if self.adjusted <= WRONG else "undecided"

    def shown(self, number: float) -> str:
        """A number in this condition's unit."""
        if self.unit in ("%", "points"):
            return f"{round(100 * number, 1) + 0.0:.1f} {self.unit}"  # + 0: no minus before a zero
        return f"{number:.3g}{' ' + self.unit if self.unit else ''}"

    def interval(self) -> str:
        """The value's interval as text, with the unit once."""
        if abs(self.value.low) == float("inf"):
            return "one run, spread between seeds unknown"
        low, high = self.shown(self.value.low), self.shown(self.value.high)
        return f"{low.removesuffix(f' {self.unit}')} to {high}" + (", one run" if self.value.seeds == 1 else "")

    def sentence(self) -> str:
        """The condition in words: the value, its interval, the threshold and the nulls."""
        side = "above" if self.relation == ">" else "below"
        threshold = f"{side} {self.shown(self.threshold)}"
        said = f"{self.site}: {self.what} {self.shown(self.value.value)} ({self.interval()}), {threshold}"
        said += {"yes": "", "no": " fails", "undecided": " undecided", "not tested": ""}[self.holds]
        return "; ".join([said, *(f"{null.name} {self.shown(null.value)}" for null in self.nulls)])

    def entry(self) -> dict:
        """The condition as in claims.json."""
        return {
            **dataclasses.asdict(self),
            "value": self.value.entry(),
            "curve": [list(point) for point in self.curve],
            "holds": self.holds,
            "nulls": [null.entry() for null in self.nulls],
        }


@dataclass(frozen=True)
class Claim:
    """One of the paper's claims, or one on a question that it leaves open, with what was measured of it."""

    id: int | str
    """A number for the paper's eleven claims; for others, a name, a comma, and the network."""
    figure: str
    """Figures of the paper, or the section that leaves the question open."""
    statement: str
    threshold_from: str
    """Which threshold, and where it comes from."""
    null: str
    """The null of mark (b), in words."""
    file: str
    """Result files that the claim is judged by."""
    conditions: tuple[Condition, ...] = ()
    untested: str = ""
    """Why the claim was not tested."""
    missing: tuple[str, ...] = ()
    """Missing data that conditions or nulls need, each with how to get it."""

    @property
    def deciding_conditions(self) -> tuple[Condition, ...]:
        """The conditions of scope paper."""
        return tuple(c for c in self.conditions if c.scope == "paper")

    @property
    def deciding(self) -> Condition | None:
        """The condition to show first: one that fails, else one that is undecided, else the first."""
        among = self.deciding_conditions or self.conditions
        order = {"no": 0, "undecided": 1, "yes": 2}
        return min(among, key=lambda c: order[c.holds], default=None)

    @property
    def verdict(self) -> Verdict:
        """Mark (a): supported where every deciding condition holds, contradicted where one fails."""
        marks = {condition.holds for condition in self.deciding_conditions}
        if not marks:
            return "not tested"
        return "contradicted" if "no" in marks else "undecided" if "undecided" in marks else "supported"

    @property
    def beats_null(self) -> Mark:
        """Mark (b): yes where the value beats the null at every deciding condition that has a null."""
        among = self.deciding_conditions or self.conditions
        marks = {null.beaten for c in among for null in c.nulls if null.decides} - {"not tested"}
        if not marks:
            return "not tested"
        return "no" if "no" in marks else "undecided" if "undecided" in marks else "yes"

    @property
    def because(self) -> str:
        """The reason for the verdict: the deciding conditions in words, or why there are none."""
        if not self.conditions:
            return self.untested
        said = "; ".join(c.sentence() for c in (self.deciding_conditions or self.conditions))
        return (
            said if self.deciding_conditions else f"{self.untested or 'nothing the sentence is about'}. Beyond: {said}"
        )

    @property
    def decided_by(self) -> str:
        """What would decide an undecided verdict or mark; empty where both are decided."""
        needs = [c for c in self.deciding_conditions if c.holds == "undecided"]
        single = any(c.value.seeds < 3 for c in needs)
        said = []
        if needs and single:
            said.append("three seeds or more (--seeds 5)")
        elif needs:
            worst = max(
                needs, key=lambda c: (c.value.high - c.value.low) / max(abs(c.value.value - c.threshold), 1e-12)
            )
            ratio = (worst.value.high - worst.value.low) / 2 / max(abs(worst.value.value - worst.threshold), 1e-12)
            wanted = int(min(worst.value.seeds * ratio**2 + 1, 1000))
            said.append(f"about {wanted} seeds in place of {worst.value.seeds}, if the value stays (at {worst.site})")
        elif self.beats_null == "undecided":
            said.append("more seeds, for the null")
        return "; ".join([*said, *self.missing])

    def judged(self) -> "Claim":
        """The claim with `adjusted` p-values: those of deciding conditions corrected for their number (Holm)."""
        p = [c.value.p_on_the_other_side(c.threshold, c.relation) for c in self.conditions]
        corrected = iter(holm([p for p, c in zip(p, self.conditions, strict=True) if c.scope == "paper"]))
        conditions = (
            dataclasses.replace(c, adjusted=next(corrected) if c.scope == "paper" else own)
            for c, own in zip(self.conditions, p, strict=True)
        )
        return dataclasses.replace(self, conditions=tuple(conditions))

    def entry(self) -> dict:
        """The claim as in claims.json."""
        condition = self.deciding
        return {
            "id": self.id,
            "figure": self.figure,
            "statement": self.statement,
            "verdict": self.verdict,
            "beats_null": self.beats_null,
            "scope": condition.scope if condition else None,
            "value": condition.value.value if condition else None,
            "interval": [condition.value.low, condition.value.high] if condition else None,
            "threshold": condition.threshold if condition else None,
            "threshold_from": self.threshold_from,
            "null": self.null,
            "because": self.because,
            "decided_by": self.decided_by,
            "missing": list(self.missing),
            "file": self.file,
            "conditions": [c.entry() for c in self.conditions],
        }


def condition(
    what: str,
    site: str,
    by_seed: Sequence[float] | np.ndarray,
    relation: Literal[">", "<"],
    threshold: float,
    **details: Any,
) -> Condition:
    """The condition on the mean of one value a seed, with its interval; `details` are further fields of Condition."""
    return Condition(what, site, estimate(by_seed, between_seeds(what)), relation, threshold, **details)


def null(
    name: str,
    what: str,
    own: Sequence[float] | np.ndarray,
    other: Sequence[float] | np.ndarray,
    decides: bool = True,
    lower: bool = False,
) -> Null:
    """The null whose values by seed are `other`, and how far the measure's `own` values are ahead, seed by seed.

    `what` is the measure, which says how far apart seeds are. With `lower`, being ahead is being lower.
    """
    ahead = difference(other, own) if lower else difference(own, other)
    return Null(name, float(np.mean(other)), estimate(ahead, between_seeds(what)), decides)


def difference(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> list[float]:
    """The difference of two values, seed by seed."""
    return [float(a - b) for a, b in zip(one, other, strict=True)]


def untested(base: Claim, reason: str = "") -> Claim:
    """The claim as one that was not tested, with the reason: by default, that its file is missing."""
    return dataclasses.replace(base, untested=reason or f"{base.file} is missing")
