"""The report: one HTML file with the verdicts, every figure and video, and their origin. It needs no network."""

import base64
import dataclasses
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_mech import store
from neuron_mech.errors import first_line, harmless
from neuron_mech.paper.claims import MARKS, UNFIT, Claim, Findings
from neuron_mech.paper.pages import data_url, rendered
from neuron_mech.paper.report.sections import GLOSSARY, SECTIONS, Section
from neuron_mech.store import files, provenance

LARGEST_TABLE = 400_000
"""Largest table in bytes that the page contains; larger ones are in the result file only."""

OPTIONAL = {"controls.nc": "controls"}
"""Result files that `reproduce` makes only when asked to, and the experiment that makes them."""


@dataclass(frozen=True)
class Picture:
    """A picture or video on the page, as a data URL."""

    name: str
    file: str
    """Path of the full-size file in the run's directory, without the suffix."""
    url: str
    alt: str


@dataclass(frozen=True)
class Shown:
    """A section as the page shows it: pictures, sentences about this run, and the verdicts of its claims."""

    section: Section
    pictures: list[Picture]
    measured: list[str]
    judged: list[str]
    table: str
    """The numbers behind the section as a data URL of CSV; empty where there are none, or too many."""


def html(directory: Path, found: Findings, claims: Sequence[Claim]) -> str:
    """The report of a run directory as one HTML page, with its pictures and videos inside of it.

    Arguments:
        directory: of a run, finished or not: its figures, videos, settings and provenance are shown, but none that is
            damaged. What is missing is listed.
        found: `claims.findings` of this directory, whose numbers are told.
        claims: `claims.claims` of these findings, or others; each is shown at its section.

    Returns:
        The page's text. It takes 4/3 of its pictures' and videos' bytes, each of which has to be below 64 MiB.

    Raises InputError where there is no run.

    >>> import pathlib, tempfile
    >>> from neuron_mech import config, store
    >>> from neuron_mech.paper import claims, report
    >>> with tempfile.TemporaryDirectory() as name:
    ...     with store.opened(pathlib.Path(name), config.PRESETS["digits"]) as directory:
    ...         found = claims.findings(directory)
    ...         page = report.html(directory, found, claims.claims(found))
    >>> "Nothing has been measured yet." in page
    True
    """
    config = store.read_config(directory)
    shown = [_shown(section, directory, found, claims) for section in SECTIONS]
    films = [
        Picture(harmless(p.stem), f"videos/{p.name}", data_url(p), f"{p.stem} while it learns")
        for p in _films(directory, found)
    ]
    table = directory / "table1.txt"
    return rendered(
        "report",
        preset=config.preset,
        sentence=_sentence(found, claims),
        headline=_headline(found),
        glossary=GLOSSARY,
        claims=claims,
        counts={v: sum(claim.verdict == v for claim in claims) for v in MARKS},
        sections=[one for one in shown if one.pictures or one.measured],
        film=films[-1] if films else None,
        films=films[:-1],
        still=next((picture for name in ("figure2", "figure5") if (picture := _named(shown, name))), None),
        explorer=store.whole(directory / "average_signs.nc"),
        table_1=files.read_text(table) if store.whole(table) else "",
        missing=[name for name in found.missing if name not in OPTIONAL],
        optional=[OPTIONAL[name] for name in found.missing if name in OPTIONAL],
        damaged=found.damaged,
        settings=_settings(dataclasses.asdict(config)),
        provenance=provenance.read(directory),
        megabytes=sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6,
    )


def _shown(section: Section, directory: Path, found: Findings, claims: Sequence[Claim]) -> Shown:
    judged = [
        f"Claim {claim.id}, {claim.verdict}; beats its null: {claim.beats_null}. {claim.because}."
        for claim in claims
        if claim.id in section.claims
    ]
    try:
        measured = list(section.measured(found))
    except UNFIT as error:
        measured = [f"A result file is of another version ({first_line(error)})."]
    pictures = []
    for pattern in section.figures:
        for path in sorted((directory / "figures").glob(f"{pattern}.png"), key=_natural):
            if store.whole(path):
                name = harmless(path.stem).replace("_", " ")
                alt = f"{section.title}, {name}. {' '.join(measured[:2]) or section.see}"
                pictures.append(Picture(name, f"figures/{path.stem}", data_url(path), alt))
    return Shown(section, pictures, measured, judged, _table(section, found) if pictures else "")


def _named(shown: Sequence[Shown], name: str) -> Picture | None:
    return next((picture for one in shown for picture in one.pictures if picture.name == name), None)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that compares numbers by value: dense1 17 before dense1 102."""
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.stem)]


def _table(section: Section, found: Findings) -> str:
    """`Shown.table` of a section, from the first seed's result file."""
    dataset = found.first(section.data) if section.table else None
    names = [variable for variable in section.table if dataset is not None and variable in dataset]
    if dataset is None or not names:
        return ""
    text = dataset[names].to_dataframe()[names].to_csv(float_format="%.6g")
    return f"data:text/csv;base64,{base64.b64encode(text.encode()).decode()}" if len(text) <= LARGEST_TABLE else ""


def _films(directory: Path, found: Findings) -> list[Path]:
    """The videos, in the order of their sites: the last is nearest to the output."""
    films = (path for path in (directory / "videos").glob("*") if path.suffix in (".mp4", ".gif"))
    order = [str(label) for dynamics in found.dynamics[:1] for label in dynamics.coords.get("label", ())]
    whole = (path for path in films if store.whole(path))
    return sorted(whole, key=lambda path: (order.index(path.stem) if path.stem in order else -1, _natural(path)))


def _sentence(found: Findings, claims: Sequence[Claim]) -> str:
    """The result in a sentence."""
    tested = [claim for claim in claims if claim.verdict != "not tested"]
    supported = sum(claim.verdict == "supported" for claim in tested)
    said = (
        f"Of the paper's claims, {supported} of the {len(tested)} that could be tested are supported here."
        if tested
        else ""
    )
    with suppress(*UNFIT):
        last = found.signs[0].isel(site=-1)
        said = (
            f"In {last.label.item()}, the derivative hardly ever changes its sign during training for "
            f"{float(last.constancy):.0%} of the (image, neuron) pairs. {said}"
        )
    return said or "Nothing has been measured yet."


def _headline(found: Findings) -> list[tuple[str, str]]:
    """(number, its name) pairs for the top of the page."""
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
