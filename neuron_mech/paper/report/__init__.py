"""The report: one HTML file with the verdicts, every figure and video, and their origin. It needs no network."""

from __future__ import annotations

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
from neuron_mech.lazily import jinja2
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims import MARKS, UNFIT, Claim, Findings
from neuron_mech.paper.report.sections import GLOSSARY, SECTIONS, Section
from neuron_mech.store import files, provenance

LARGEST = 2**26
"""Bytes of a picture or video on the page, at most."""
LARGEST_TABLE = 400_000
"""Bytes of a table that the page brings along, at most: larger ones are left to the result file."""

TYPES = {".png": "image/png", ".mp4": "video/mp4", ".gif": "image/gif"}
OPTIONAL = {"controls.nc": "controls"}
"""Result files that `reproduce` does not make by itself, and the experiment that does."""


@dataclass(frozen=True)
class Picture:
    """A picture on the page: as data, and where it lies whole."""

    name: str
    file: str
    """Its path in the run's directory, without the ending."""
    url: str
    alt: str


@dataclass(frozen=True)
class Shown:
    """A section as the page has it: pictures as data, what the run shows, and what becomes of its claims."""

    section: Section
    pictures: list[Picture]
    measured: list[str]
    judged: list[str]
    table: str
    """The numbers behind it as a data URL of CSV; empty where there are none, or too many."""


def html(directory: Path, found: Findings, claims: Sequence[Claim]) -> str:
    """The report of what a run directory holds; what it lacks is said. Raises InputError where it holds no run."""
    config = store.read_config(directory)
    held = [path for path in directory.rglob("*") if path.is_file()]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("neuron_mech.paper.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    shown = [_shown(section, directory, found, claims) for section in SECTIONS]
    films = [
        Picture(harmless(p.stem), f"videos/{p.name}", _data(p), f"{p.stem} while it learns")
        for p in _films(directory, found)
    ]
    table = directory / "table1.txt"
    return environment.get_template("report.html.jinja").render(
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
        megabytes=sum(path.stat().st_size for path in held) / 1e6,
    )


def _shown(section: Section, directory: Path, found: Findings, claims: Sequence[Claim]) -> Shown:
    paths = [
        path for name in section.figures for path in sorted((directory / "figures").glob(f"{name}.png"), key=_natural)
    ]
    paths = [path for path in paths if store.whole(path)]
    judged = [
        f"Claim {claim.id}, {claim.verdict}; beats its null: {claim.beats_null}. {claim.because}."
        for claim in claims
        if claim.id in section.claims
    ]
    try:
        measured = section.measured(found)
    except UNFIT as error:
        measured = [f"A result file is of another version ({first_line(error)})."]
    pictures = []
    for path in paths:
        name = harmless(path.stem).replace("_", " ")
        alt = f"{section.title}, {name}. {' '.join(measured[:2]) or section.see}"
        pictures.append(Picture(name, f"figures/{path.stem}", _data(path), alt))
    return Shown(section, pictures, measured, judged, _table(section, found) if pictures else "")


def _named(shown: Sequence[Shown], name: str) -> Picture | None:
    return next((picture for one in shown for picture in one.pictures if picture.name == name), None)


def _natural(path: Path) -> list[tuple[int, str]]:
    """What sorts names as people do: dense1 17 before dense1 102."""
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.stem)]


def _table(section: Section, found: Findings) -> str:
    """The numbers behind a section's figure as a data URL of CSV; empty where there are none, or too many."""
    lists = {"train": found.train, "gradient_signs": found.signs, "learning_dynamics": found.dynamics}
    lists |= {"class_consistency": found.classes, "controls": found.controls}
    codes = {"quantization": found.quantization, "binarization": found.binarization}
    name = section.data.removesuffix(".nc")
    dataset: xr.Dataset | None = next(iter(lists.get(name, [])), None) or codes.get(name)
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


def _data(path: Path) -> str:
    """A file as a data URL."""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(files.read(path, LARGEST)).decode()}"


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
