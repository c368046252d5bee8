"""What a claim is: conditions on measured values, its two marks, and what would decide it where they do not.

Mark (a), the verdict, is whether the paper's sentence holds. Mark (b) is whether the value beats a null, that is,
whether what the sentence describes is learning's doing. A null never overturns the sentence.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from neuron_mech.paper.claims.estimates import LEVEL, Estimate, holm

Verdict = Literal["supported", "contradicted", "undecided", "not tested"]
Mark = Literal["yes", "no", "undecided", "not tested"]
Scope = Literal["paper", "beyond"]

WRONG = (1 - LEVEL) / 2
"""One-sided level at which a value counts as on the wrong side."""


@dataclass(frozen=True)
class Null:
    """What the value would be without what the claim is about."""

    name: str
    value: float
    ahead: Estimate | None
    """How far the value is ahead of it; None where the null says nothing, and why is in its name."""
    decides: bool = True
    """Whether it is the claim's null, whose being beaten is mark (b); others are shown beside."""

    @property
    def beaten(self) -> Mark:
        """Whether the value is ahead by its whole interval, or behind by it."""
        if self.ahead is None:
            return "not tested"
        return "yes" if self.ahead.low > 0 else "no" if self.ahead.high <= 0 else "undecided"


@dataclass(frozen=True)
class Condition:
    """One value against a threshold, and beside its nulls."""

    what: str
    """Name of the measure."""
    site: str
    value: Estimate
    relation: Literal[">", "<"]
    threshold: float
    nulls: tuple[Null, ...] = ()
    unit: str = "%"
    scope: Scope = "paper"
    """paper: of a site and network that the sentence is about, and so decides. beyond: shown beside."""
    curve: tuple[tuple[float, float], ...] = ()
    """(level, value) at other thresholds of what is counted, where the measure has one: mean over seeds."""
    curve_of: str = ""
    """What the curve is over."""
    adjusted: float = 1.0
    """P of the right side, adjusted for the number of the claim's deciding conditions (Holm)."""

    @property
    def holds(self) -> Mark:
        """Whether the whole interval lies on the right side; no: on the wrong one, after Holm's correction."""
        right = self.value.low > self.threshold if self.relation == ">" else self.value.high < self.threshold
        return "yes" if right else "no" if self.adjusted <= WRONG else "undecided"

    def shown(self, number: float) -> str:
        """A number of this condition in its unit."""
        if self.unit in ("%", "points"):
            return f"{round(100 * number, 1) + 0.0:.1f} {self.unit}"  # + 0: no minus before a zero
        return f"{number:.3g}{' ' + self.unit if self.unit else ''}"

    def interval(self) -> str:
        """The value's interval, its unit said once."""
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
        of = {**self.value._asdict(), "over": self.value.over}
        return {
            **dataclasses.asdict(self),
            "value": of,
            "curve": [list(point) for point in self.curve],
            "holds": self.holds,
            "nulls": [
                {
                    "name": n.name,
                    "value": n.value,
                    "ahead": n.ahead and {**n.ahead._asdict(), "over": n.ahead.over},
                    "decides": n.decides,
                    "beaten": n.beaten,
                }
                for n in self.nulls
            ],
        }


@dataclass(frozen=True)
class Claim:
    """One of the paper's claims, or one on a question that it leaves open, and what became of it."""

    id: int | str
    """Of the paper's eleven, a number; of another, its name, a comma, and the network that it was asked of."""
    figure: str
    """Of the paper; or the part of it that leaves the question open."""
    statement: str
    threshold_from: str
    """Where the threshold comes from."""
    null: str
    """What mark (b) is held against."""
    file: str
    """The result file it is read from."""
    conditions: tuple[Condition, ...] = ()
    untested: str = ""
    """Why it was not tested."""
    missing: tuple[str, ...] = ()
    """What is not there of what its conditions or nulls need, each with what it would take."""

    @property
    def deciding_conditions(self) -> tuple[Condition, ...]:
        """Those of scope paper, with their p-values adjusted for one another."""
        return tuple(c for c in self.conditions if c.scope == "paper")

    @property
    def deciding(self) -> Condition | None:
        """The condition to be shown first: one that fails, else one that is undecided, else the first."""
        among = self.deciding_conditions or self.conditions
        order = {"no": 0, "undecided": 1, "yes": 2}
        return min(among, key=lambda c: order[c.holds], default=None)

    @property
    def verdict(self) -> Verdict:
        """Mark (a): supported where every condition of scope paper holds, contradicted where one fails."""
        marks = {condition.holds for condition in self.deciding_conditions}
        if not marks:
            return "not tested"
        return "contradicted" if "no" in marks else "undecided" if "undecided" in marks else "supported"

    @property
    def beats_null(self) -> Mark:
        """Mark (b): whether the value is ahead of the claim's null at every deciding condition that has one."""
        among = self.deciding_conditions or self.conditions
        marks = {null.beaten for c in among for null in c.nulls if null.decides} - {"not tested"}
        if not marks:
            return "not tested"
        return "no" if "no" in marks else "undecided" if "undecided" in marks else "yes"

    @property
    def because(self) -> str:
        """Why, in a sentence: the deciding conditions, or why there are none."""
        if not self.conditions:
            return self.untested
        said = "; ".join(c.sentence() for c in (self.deciding_conditions or self.conditions))
        return (
            said if self.deciding_conditions else f"{self.untested or 'nothing the sentence is about'}. Beyond: {said}"
        )

    @property
    def decided_by(self) -> str:
        """Which run would decide an undecided verdict or mark; empty where both are decided."""
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
        """The claim with its conditions' p-values adjusted for one another."""
        own = self.deciding_conditions
        adjusted = iter(holm([c.value.p_on_the_other_side(c.threshold, c.relation) for c in own]))
        conditions = [
            dataclasses.replace(
                c,
                adjusted=next(adjusted) if c.scope == "paper" else c.value.p_on_the_other_side(c.threshold, c.relation),
            )
            for c in self.conditions
        ]
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


def untested(base: Claim, reason: str = "") -> Claim:
    """The claim as one that was not tested, and why."""
    return dataclasses.replace(base, untested=reason or f"{base.file} is missing")
