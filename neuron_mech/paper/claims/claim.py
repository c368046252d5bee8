"""What a claim is: conditions on measured values, each held against controls; and what became of it."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from neuron_mech.paper.claims.estimates import Estimate

Verdict = Literal["supported", "not supported", "not tested"]


@dataclass(frozen=True)
class Control:
    """What the value would be without what the claim is about."""

    name: str
    value: float
    ahead: Estimate | None
    """How far the value is ahead of it; None where the control says nothing, and why is in its name."""

    @property
    def beaten(self) -> bool:
        """Whether the value is ahead by its whole interval; one that says nothing is no hindrance."""
        return self.ahead is None or self.ahead.low > 0


@dataclass(frozen=True)
class Condition:
    """One value against a threshold and controls."""

    what: str
    site: str
    value: Estimate
    relation: Literal[">", "<"]
    threshold: float
    controls: tuple[Control, ...] = ()
    unit: str = "%"

    @property
    def holds(self) -> bool:
        """Whether the whole interval lies on the right side, and every control is beaten."""
        return self.passes and all(control.beaten for control in self.controls)

    @property
    def passes(self) -> bool:
        """Whether the whole interval lies on the right side of the threshold, whatever the controls."""
        return self.value.low > self.threshold if self.relation == ">" else self.value.high < self.threshold

    def shown(self, number: float) -> str:
        """A number of this condition in its unit."""
        if self.unit in ("%", "points"):
            return f"{round(100 * number, 1) + 0.0:.1f} {self.unit}"  # + 0: no minus before a zero
        return f"{number:.3g}{' ' + self.unit if self.unit else ''}"

    def interval(self) -> str:
        """The value's interval, its unit said once."""
        low, high = self.shown(self.value.low), self.shown(self.value.high)
        return f"{low.removesuffix(f' {self.unit}')} to {high}"

    def sentence(self) -> str:
        """The condition in words: the value, its interval, the threshold and the controls."""
        said = f"{self.site}: {self.what} {self.shown(self.value.value)} ({self.interval()})"
        return ", ".join([said, *(f"{control.name} {self.shown(control.value)}" for control in self.controls)])


@dataclass(frozen=True)
class Claim:
    """One of the paper's claims, and what became of it."""

    id: int
    figure: str
    statement: str
    threshold_from: str
    """Where the threshold comes from."""
    file: str
    """The result file it is read from."""
    conditions: tuple[Condition, ...] = ()
    untested: str = ""
    """Why it was not tested."""

    @property
    def deciding(self) -> Condition | None:
        """The condition that decides: the first that does not hold, or the first."""
        return next((c for c in self.conditions if not c.holds), self.conditions[0] if self.conditions else None)

    @property
    def verdict(self) -> Verdict:
        """Supported where every condition holds."""
        if not self.conditions:
            return "not tested"
        return "supported" if all(condition.holds for condition in self.conditions) else "not supported"

    @property
    def because(self) -> str:
        """Why, in a sentence."""
        condition = self.deciding
        if condition is None:
            return self.untested
        if condition.holds:
            return "; ".join(t.sentence() for t in self.conditions)
        if not condition.passes:
            side = "above" if condition.relation == ">" else "below"
            return f"{condition.sentence()}: not {side} {condition.shown(condition.threshold)} by its whole interval"
        control = next(c for c in condition.controls if not c.beaten)
        return f"{condition.sentence()}: no better than its control, {control.name}"

    def entry(self) -> dict:
        """The claim as in claims.json."""
        condition = self.deciding
        return {
            "id": self.id,
            "figure": self.figure,
            "statement": self.statement,
            "value": condition.value.value if condition else None,
            "interval": [condition.value.low, condition.value.high] if condition else None,
            "threshold": condition.threshold if condition else None,
            "threshold_from": self.threshold_from,
            "verdict": self.verdict,
            "because": self.because,
            "file": self.file,
            "conditions": [
                {
                    **dataclasses.asdict(t),
                    "value": t.value._asdict(),
                    "controls": [
                        {"name": c.name, "value": c.value, "ahead": c.ahead and c.ahead._asdict(), "beaten": c.beaten}
                        for c in t.controls
                    ],
                    "holds": t.holds,
                }
                for t in self.conditions
            ],
        }


def untested(base: Claim, reason: str = "") -> Claim:
    """The claim as one that was not tested, and why."""
    return dataclasses.replace(base, untested=reason or f"{base.file} is missing")
