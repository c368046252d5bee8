"""The paper's eleven claims, each a predicate on result files: statement, measured value, control, verdict.

A claim is a list of conditions, "this value lies above (or below) that threshold". Those of scope paper decide: it is
supported where the whole 95 % interval of each lies on the right side, contradicted where one's lies on the wrong side
(Holm's correction for their number), undecided else. Beside the verdict stands a second mark: whether the value beats
the claim's null. Intervals are Student's t over seeds; of one run, twice the standard deviation between the seeds of
digits. docs/claims.md states every claim; schema.json what claims.json holds. Claims on other questions, from other
files, are judged, printed and stored as these are: build a `Claim` of your own `Condition`s, and take `Claim.judged`.
"""

import importlib.resources
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neuron_mech.errors import first_line
from neuron_mech.paper.claims import categories, codes, signs
from neuron_mech.paper.claims import spread as spread
from neuron_mech.paper.claims.claim import Claim as Claim
from neuron_mech.paper.claims.claim import Condition as Condition
from neuron_mech.paper.claims.claim import Mark, Verdict
from neuron_mech.paper.claims.claim import Null as Null
from neuron_mech.paper.claims.estimates import Estimate as Estimate
from neuron_mech.paper.claims.findings import OF_SEEDS
from neuron_mech.paper.claims.findings import Findings as Findings
from neuron_mech.paper.claims.findings import findings as findings
from neuron_mech.store import files

CLAIMS: tuple[Callable[[Findings], Claim], ...] = (
    signs.near_output,
    signs.halves,
    signs.falls_with_distance,
    signs.linear_is_clearer,
    categories.categories_separate,
    categories.no_translation,
    categories.classes_are_whole,
    codes.two_values_suffice,
    codes.ends_tell_more,
    codes.middle_tells_something,
    codes.rank_of_threshold,
)


VERSION = 2
"""Version of claims.json, which schema.json describes. Version 1 was a list of claims with one mark."""

MARKS: dict[Verdict, str] = {"supported": "✓", "contradicted": "✗", "undecided": "?", "not tested": "–"}
BEATS: dict[Mark, str] = {"yes": "●", "no": "○", "undecided": "◐", "not tested": "·"}
"""Signs for the second mark: whether the null is beaten."""

UNFIT = (KeyError, AttributeError, IndexError, TypeError, ValueError, ArithmeticError)
"""Errors raised by reading from a result file what it lacks or has in another shape."""


def claims(found: Findings) -> list[Claim]:
    """All eleven claims of the paper, judged on these findings.

    Arguments:
        found: as `findings` reads them from a run directory. A claim whose files are missing, or lack data that it
            needs, is not tested: its `untested` says why.

    Returns:
        The claims in the paper's order, each with its `verdict`, its mark `beats_null`, the reason `because`, and what
            would decide it, `decided_by`. Nothing is raised for files that are of another version.

    >>> from neuron_mech.paper import claims
    >>> judged = claims.claims(claims.Findings("digits"))
    >>> judged[-1].id, judged[-1].verdict, judged[-1].because
    (11, 'not tested', 'quantization.nc is missing')
    """
    return [_judged(claim, found).judged() for claim in CLAIMS]


def _judged(claim: Callable[[Findings], Claim], found: Findings) -> Claim:
    try:
        judged = claim(found)
    except UNFIT as error:
        nothing = claim(Findings(found.preset))
        lacking = first_line(ValueError(*error.args[:1])).rstrip(".")
        reason = f"{nothing.file} is of another version ({lacking}): remove it and run its experiment again"
        return replace(nothing, untested=reason)
    if not (found.trained_here or judged.conditions) and judged.file.startswith(tuple(OF_SEEDS.values())):
        return replace(judged, untested="the network was not trained here, so nothing was recorded while it learned")
    return judged


def text(found: Sequence[Claim]) -> str:
    """The claims as claims.json holds them."""
    tree = {"version": VERSION, "claims": [_finite(claim.entry()) for claim in found]}
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def read(text: str | bytes) -> list[dict[str, Any]]:
    """The claims in the text of a claims.json. Raises ValueError for other text, and for another version."""
    tree = json.loads(text)
    if not isinstance(tree, dict) or tree.get("version") != VERSION:
        version = tree.get("version") if isinstance(tree, dict) else 1
        raise ValueError(f"it is claims.json of version {version}, and this version reads {VERSION}")
    return tree["claims"]


def schema() -> dict[str, Any]:
    """The JSON Schema of claims.json."""
    return json.loads(importlib.resources.files(__package__).joinpath("schema.json").read_text(encoding="utf-8"))


def fewer(stored: bytes, found: Sequence[Claim]) -> list[str]:
    """A line for each claim that the claims.json `stored` based on more values or more seeds than `found` does."""
    try:
        entries = read(stored) if stored else []
        before = {entry["id"]: (entry["verdict"], *_rests_on(entry)) for entry in entries}
    except (ValueError, TypeError, KeyError):
        return ["claims.json was damaged, or of another version: it is written again"]
    lines = []
    for claim in found:
        verdict, *more = before.get(claim.id, ("not tested", 0, 0))
        values, seeds = _rests_on(claim.entry())
        if values < more[0] and not values:
            lines.append(f"claim {claim.id} was {verdict} and is not tested now: {claim.because}")
        elif values < more[0] or seeds < more[1]:
            rested, rests = (f"{v} values and {s} seeds" for v, s in (more, (values, seeds)))
            lines.append(f"claim {claim.id} was {verdict} by {rested}, and is {claim.verdict} by {rests} now")
    return lines


def _rests_on(entry: dict) -> tuple[int, int]:
    """(number of values, number of seeds) that an entry of claims.json is based on."""
    values = entry["conditions"]
    return len(values), max((value["value"]["seeds"] for value in values), default=0)


def write(directory: Path, found: Sequence[Claim]) -> Path:
    """Write claims.json."""
    path = directory / "claims.json"
    files.write_text(path, text(found))
    return path


def table(found: Sequence[Claim]) -> str:
    """The verdicts, a claim a paragraph, for a terminal: "" for no claims.

    The first sign is the verdict's (MARKS), the second says whether the value beats the claim's null (BEATS). What
    would decide is said where something is undecided.

    >>> from neuron_mech.paper import claims
    >>> from neuron_mech.paper.claims.claim import condition
    >>> most = condition("constancy", "dense2", [0.71, 0.72, 0.73], ">", 0.5)  # of three seeds
    >>> claim = claims.Claim("mine", "fig. 5", "Most signs are constant", "a half", "none", "mine.nc", (most,))
    >>> print(claims.table([claim.judged()]))
    mine ✓ · Most signs are constant (fig. 5): supported; beats its null: not tested
         dense2: constancy 72.0 % (69.5 to 74.5 %), above 50.0 %
    """
    said = []
    for claim in found:
        marks = f"{MARKS[claim.verdict]} {BEATS[claim.beats_null]}"
        beats = f"{claim.verdict}; beats its null: {claim.beats_null}"
        said += [f"{claim.id:>2} {marks} {claim.statement} ({claim.figure}): {beats}", f"     {claim.because}"]
        said += [f"     would decide: {claim.decided_by}"] if claim.decided_by else []
    return "\n".join(said)


def comparison(one: Sequence[Claim], other: Sequence[Claim], names: tuple[str, str]) -> str:
    """Two runs' verdicts side by side, each with its deciding value and its interval, for a terminal.

    Arguments:
        one: claims of one run, as `claims` gives them.
        other: the same claims of another, in the same order; ValueError where they are more or fewer.
        names: what the two are called.

    >>> from neuron_mech.paper import claims
    >>> nothing = claims.claims(claims.Findings("digits"))
    >>> print(claims.comparison(nothing[1:2], nothing[1:2], ("runs/digits", "runs/mine")))
    one: runs/digits
    other: runs/mine
     2 About half of the samples are low and half high, per neuron: same verdict
         one: not tested
         other: not tested
    """

    def cell(claim: Claim) -> str:
        deciding = claim.deciding
        value = f", {deciding.shown(deciding.value.value)} ({deciding.interval()})" if deciding else ""
        return f"{claim.verdict}{value}"

    lines = [f"one: {names[0]}", f"other: {names[1]}"]
    for a, b in zip(one, other, strict=True):
        agree = "same verdict" if a.verdict == b.verdict else "another verdict"
        lines += [f"{a.id:>2} {a.statement}: {agree}", f"     one: {cell(a)}", f"     other: {cell(b)}"]
    return "\n".join(lines)


def _finite(tree: object) -> object:
    """The tree with null for numbers that JSON does not have: infinities and NaN."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree
