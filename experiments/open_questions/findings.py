"""Claims over seeds: a mean with Student's interval against a threshold, and beside it whether it beats a null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from neuron_mech.lazily import stats

Verdict = Literal["supported", "contradicted", "undecided", "not tested"]


@dataclass(frozen=True)
class Condition:
    """One value by seed against a threshold, and its lead over a null by seed where there is one."""

    what: str
    values: np.ndarray
    relation: Literal[">", "<"]
    threshold: float
    null: str = ""
    lead: np.ndarray | None = None

    def entry(self) -> dict[str, Any]:
        """As in claims.json; `holds` says on which side of the threshold the whole interval lies, None for neither."""
        value, low, high = interval(self.values)
        side = {"value": value, "interval": [low, high], "relation": self.relation, "threshold": self.threshold}
        entry = {"what": self.what, **side, "seeds": len(self.values), "holds": self.holds}
        if self.lead is not None:
            ahead, least, most = interval(self.lead)
            entry["null"] = {"name": self.null, "ahead": ahead, "interval": [least, most], "beaten": least > 0}
        return entry

    @property
    def holds(self) -> bool | None:
        """True or False where the whole interval lies on one side, None where it does not, or has no number."""
        _, low, high = interval(self.values)
        if not np.isfinite([low, high]).all():
            return None
        above, below = low > self.threshold, high < self.threshold
        if not above and not below:
            return None
        return bool(above if self.relation == ">" else below)


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of the 95 % interval of Student's t over seeds; without width where all are alike."""
    sample = np.asarray(values, np.float64)
    mean, half = float(sample.mean()), float("nan")
    if len(sample) > 1:
        half = float(stats.t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
    return mean, mean - half, mean + half


def claim(id: str, statement: str, file: str, conditions: Sequence[Condition], scope: str) -> dict[str, Any]:
    """A claim as in claims.json. All conditions decide: supported where each holds, contradicted where one is reversed.

    For a reversed one the interval is widened for the number of conditions: Holm's first step, which is all that counts
    where one is enough.
    """
    entries = [condition.entry() for condition in conditions]
    verdict: Verdict = "undecided"
    if not conditions:
        verdict = "not tested"
    elif all(condition.holds for condition in conditions):
        verdict = "supported"
    elif any(_reversed(condition, len(conditions)) for condition in conditions):
        verdict = "contradicted"
    nulls = [entry["null"]["beaten"] for entry in entries if "null" in entry]
    first = next((e for e, c in zip(entries, conditions, strict=True) if not c.holds), entries[0] if entries else {})
    return {
        "id": id,
        "statement": statement,
        "value": first.get("value"),
        "interval": first.get("interval"),
        "threshold": first.get("threshold"),
        "verdict": verdict,
        "beats_null": all(nulls) if nulls else None,
        "scope": scope,
        "file": file,
        "conditions": entries,
    }


def _reversed(condition: Condition, conditions: int) -> bool:
    """Whether the interval at level 5 % / conditions lies wholly on the wrong side."""
    sample = np.asarray(condition.values, np.float64)
    if not np.isfinite(sample).all() or len(sample) < 2:
        return False
    half = stats.t.ppf(1 - 0.025 / conditions, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample))
    wrong = sample.mean() + half < condition.threshold, sample.mean() - half > condition.threshold
    return bool(wrong[0] if condition.relation == ">" else wrong[1])


def shown(found: dict[str, Any]) -> str:
    """A claim in lines for a terminal."""
    lines = [f"{found['id']}: {found['verdict']}; beats its null: {found['beats_null']}. {found['statement']}"]
    for at in found["conditions"]:
        low, high = at["interval"]
        line = (
            f"    {at['what']}: {at['value']:.3f} ({low:.3f} to {high:.3f}), asked {at['relation']} {at['threshold']:g}"
        )
        if null := at.get("null"):
            least, most = null["interval"]
            line += f"; ahead of {null['name']} by {null['ahead']:.3f} ({least:.3f} to {most:.3f})"
        lines.append(line)
    return "\n".join(lines)
