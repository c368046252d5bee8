"""The report: one HTML file with the verdicts, every figure and video, and their origin. It needs no network."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_mech import store
from neuron_mech.errors import first_line, harmless
from neuron_mech.lazily import jinja2
from neuron_mech.paper.claims import BEATS, MARKS, UNFIT, Claim, Findings
from neuron_mech.paper.report.sections import SECTIONS, Section
from neuron_mech.store import files, provenance

LARGEST = 2**26
"""Bytes of a picture or video on the page, at most."""

TYPES = {".png": "image/png", ".mp4": "video/mp4", ".gif": "image/gif"}


@dataclass(frozen=True)
class Shown:
    """A section as the page has it: pictures as data, what the run shows, and what becomes of its claims."""

    section: Section
    pictures: list[tuple[str, str]]
    """(what it is a picture of, data URL)"""
    measured: list[str]
    judged: list[str]


def html(directory: Path, found: Findings, claims: Sequence[Claim]) -> str:
    """The report of what a run directory holds; what it lacks is said. Raises InputError where it holds no run."""
    config = store.read_config(directory)
    held = [path for path in directory.rglob("*") if path.is_file()]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("neuron_mech.paper.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    shown = [_shown(section, directory, found, claims) for section in SECTIONS]
    table = directory / "table1.txt"
    return environment.get_template("report.html.jinja").render(
        preset=config.preset,
        headline=_headline(found),
        claims=claims,
        marks=MARKS,
        beats=BEATS,
        counts={v: sum(claim.verdict == v for claim in claims) for v in MARKS},
        sections=[one for one in shown if one.pictures or one.measured],
        videos=[(harmless(path.stem), _data(path)) for path in _films(directory)],
        table_1=files.read_text(table) if store.whole(table) else "",
        missing=found.missing,
        damaged=found.damaged,
        settings=_settings(dataclasses.asdict(config)),
        provenance=provenance.read(directory),
        megabytes=sum(path.stat().st_size for path in held) / 1e6,
    )


def _shown(section: Section, directory: Path, found: Findings, claims: Sequence[Claim]) -> Shown:
    paths = sorted(path for name in section.figures for path in (directory / "figures").glob(f"{name}.png"))
    paths = [path for path in paths if store.whole(path)]
    pictures = [(harmless(path.stem).replace("_", " "), _data(path)) for path in paths]
    judged = [
        f"Claim {claim.id}, {claim.verdict}; beats its null: {claim.beats_null}. {claim.because}."
        for claim in claims
        if claim.id in section.claims
    ]
    try:
        measured = section.measured(found)
    except UNFIT as error:
        measured = [f"A result file is of another version ({first_line(error)})."]
    return Shown(section, pictures, measured, judged)


def _films(directory: Path) -> list[Path]:
    films = (path for path in (directory / "videos").glob("*") if path.suffix in (".mp4", ".gif"))
    return sorted(path for path in films if store.whole(path))


def _data(path: Path) -> str:
    """A file as a data URL."""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(files.read(path, LARGEST)).decode()}"


def _headline(found: Findings) -> list[tuple[str, str]]:
    """(number, what it is) of the run, for the top of the page."""
    numbers = []
    with suppress(*UNFIT):
        accuracy = [float(train.test_accuracy[-1]) for train in found.train]
        numbers.append((f"{sum(accuracy) / len(accuracy):.2%}", "test accuracy"))
        numbers.append((str(len(found.train)), "seed" if len(found.train) == 1 else "seeds"))
    with suppress(*UNFIT):
        signs = found.signs[0]
        numbers.append((f"{int(signs.recordings):,}", "recordings"))
        numbers.append((f"{int(signs.recorded_samples.max()):,}", "recorded samples"))
    return numbers


def _settings(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The config as (section.field, value), fields that do not apply left out."""
    return [
        (f"{section}.{name}", json.dumps(value))
        for section, fields in config.items()
        if isinstance(fields, dict)
        for name, value in fields.items()
        if value is not None
    ]
