"""Every value that the published verdicts rest on, as one page made from results/*/claims.json.

A table a claim, a row for each of its conditions in each run: value, interval and threshold, and how far it is ahead of
its nulls. `experiments.publish` writes it into docs/results/conditions.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from neuron_mech.errors import harmless
from neuron_mech.paper.claims import MARKS
from neuron_mech.paper.claims.claim import Verdict

HEAD = """# Every condition

What the [verdicts](index.md) rest on, made from the runs' `claims.json` by `python -m experiments.publish`. A
claim is a list of conditions: a value, its 95 % interval, and the threshold asked for; how each is measured, and
where its threshold comes from, is said in [the claims](../claims.md). Conditions in italics decide nothing: they are
of sites or networks that the sentence is not about, or not measured as it asks. *Ahead* is how far the value is ahead
of its nulls, of which the first decides the second mark. Of one run the interval is twice the spread between seeds
that digits has, and open where digits has no such measure.
"""

HOLDS: dict[str, Verdict] = {"yes": "supported", "no": "contradicted"}
"""A condition's mark as a verdict, where it is another word."""


def page(claims_by_run: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The page, for the claims of every run, both in the order given; a run is a directory in results/."""
    lines = [HEAD]
    first: dict[str, Mapping[str, Any]] = {}
    for entries in claims_by_run.values():
        for entry in entries:
            first.setdefault(str(entry["id"]), entry)
    for name in first:
        lines += [f"## {name}. {harmless(first[name]['statement'])}", ""]
        lines += [f"Threshold: {harmless(first[name]['threshold_from'])}. Null: {harmless(first[name]['null'])}.", ""]
        lines += ["| run | site | measured | value | asked | | null | ahead |", "|---" * 8 + "|"]
        for run, entry in ((run, e) for run, entries in claims_by_run.items() for e in entries if str(e["id"]) == name):
            lines += [row(run, condition) for condition in entry["conditions"]]
            if not entry["conditions"]:
                lines.append(f"| {linked(run)} |  |  |  |  | {MARKS['not tested']} |  |  |")
        lines.append("")
    return "\n".join(lines)


def row(run: str, condition: Mapping[str, Any]) -> str:
    """A condition of a run as a row of the table."""
    value, unit = condition["value"], condition["unit"]
    apart = "points" if unit == "%" else unit
    seeds = "one run" if value["seeds"] == 1 else f"{value['seeds']} seeds"
    asked = f"{condition['relation']} {number(condition['threshold'], unit)}"
    nulls = sorted(condition["nulls"], key=lambda null: not null["decides"])
    names = "<br>".join(f"{null['name']}: {number(null['value'], unit)}" for null in nulls)
    ahead = "<br>".join("" if null["ahead"] is None else interval(null["ahead"], apart) for null in nulls)
    cells = [condition["site"], condition["what"], f"{interval(value, unit)}, {seeds}", asked]
    if condition["scope"] == "beyond":
        cells = [f"*{cell}*" if cell else "" for cell in cells]
    cells += [MARKS[HOLDS.get(condition["holds"], condition["holds"])], names, ahead]
    whole = " | ".join(harmless(cell).replace("|", "\\|") for cell in cells)
    return f"| {linked(run)} | {whole} |"


def linked(run: str) -> str:
    """A run's name as a link to its claims.json."""
    return f"[{run}](../../results/{run}/claims.json)"


def interval(estimate: Mapping[str, Any], unit: str) -> str:
    """A value with its interval: `77.6 % (77.1 to 78.0)`, or (open)."""
    low, high = (number(estimate[end], unit).removesuffix(f" {unit}") for end in ("low", "high"))
    both_known = estimate["low"] is not None and estimate["high"] is not None
    return f"{number(estimate['value'], unit)} ({f'{low} to {high}' if both_known else 'open'})"


def number(value: float | None, unit: str) -> str:
    """A number with its unit; of % and points, 100 times the share that is kept."""
    if value is None:
        return "?"
    if unit in ("%", "points"):
        return f"{100 * value:.1f} {unit}"
    return f"{value:.1f} {unit}" if unit == "ranks" else f"{value:.3g} {unit}".rstrip()
