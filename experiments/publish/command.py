"""The command that publishes, and the table of verdicts that it makes."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.command_line import entry_point
from experiments.open_questions import publishing
from experiments.publish import __doc__ as about
from experiments.publish import conditions, tables
from experiments.publish.shrinking import copy, smaller
from neuron_mech import store
from neuron_mech.config import PRESETS, Config, differences
from neuron_mech.errors import InputError, first_line, harmless
from neuron_mech.paper import claims
from neuron_mech.store import files, provenance

ROOT = Path(__file__).parent.parent.parent
FIGURES = (
    *("figure5", "figure5_by_phase", "figure2", "figure8", "figure3", "figure3_activation", "figure4"),
    *("constancy", "controls", "separation", "predictions"),
)
LARGEST_SIGNS = 4_000_000
"""Bytes of an average_signs.nc that is published, at most."""
BEGIN, END = "<!-- verdicts -->\n", "<!-- end of verdicts -->\n"
NARROW = "\N{NO-BREAK SPACE}"
"""Between a number and its unit where a cell is narrow."""


def publish(directory: Path, into: Path) -> None:
    """Copy the verdicts and main figures of a run.

    Raises InputError where it has not been reproduced, or its verdicts are not what its result files say.
    """
    config = store.read_config(directory)
    verdicts = directory / "claims.json"
    if not verdicts.exists():
        raise InputError(f"{directory} has no claims.json: run `python -m experiments.reproduce {config.preset}` first")
    found = claims.findings(directory)
    judged = claims.text(claims.claims(found))
    lost = [*found.damaged, *store.all_lost(directory)]
    try:
        current = not lost and files.read_text(verdicts) == judged
    except (OSError, ValueError):
        current = False
    if not current:
        why = "; ".join(lost) or f"{verdicts} is not what the result files beside it say"
        raise InputError(f"{why}: run `python -m experiments.reproduce {config.preset}` again, and look at its report")
    figures = {name: path for name in FIGURES if (path := directory / "figures" / f"{name}.png").exists()}
    pictures = {name: smaller(path) for name, path in figures.items()}
    try:
        seeds = [int(train.attrs["seed"]) for train in found.train]
        accuracy = [float(train.test_accuracy[-1]) for train in found.train]
    except claims.UNFIT as error:
        raise InputError(
            f"{directory / 'train.nc'} is of another version ({first_line(error)}): run `python -m experiments.train`"
        ) from None
    run = {
        "command": command(config, len(found.train)),
        "published by": provenance.commit(),
        "seeds": seeds,
        "test_accuracy": accuracy,
        **provenance.read(directory),
    }
    name = directory.resolve().name
    if not re.fullmatch(re.escape(config.preset) + r"(-[\w-]+)?", name):
        raise InputError(
            f"{directory} is published under its own name, which is {name!r}: call it {config.preset}, or "
            f"{config.preset}-SOMETHING where it is not the preset as it stands"
        )
    place = into / name
    files.write_text(place / "claims.json", judged)
    for name, picture in pictures.items():
        files.write_bytes(place / f"{name}.png", picture)
    files.write_text(place / "README.md", tables.page(found, run["command"]))
    files.write_text(place / "run.json", json.dumps(run, indent=2) + "\n")
    if (signs := directory / "average_signs.nc").exists():
        copy(signs, place, LARGEST_SIGNS)


def command(config: Config, seeds: int) -> str:
    """The command that gives this run."""
    changed = [line.split(": ", 1)[0] for line in differences(config, PRESETS[config.preset])]
    fields = []
    for name in changed:
        section, field = name.split(".")
        value = getattr(getattr(config, section), field)
        fields += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    repeated = ["--seeds", str(seeds)] if seeds > 1 else []
    return " ".join(["python -m experiments.reproduce", config.preset, *fields, *repeated])


def changes(command: str) -> str:
    """What a published run's command changes in its preset, seeds apart: `model.width 0.25`; a dash for nothing."""
    fields = command.partition(" --seeds ")[0].split(" --")[1:]
    return ", ".join(code(field) for field in fields) or "–"


def markdown(text: str) -> str:
    """Text from a run as Markdown that is nothing but text: no markup, no links, no second line or cell."""
    return re.sub(r"[&<>\"`*_\[\]|~!#$\\]", lambda mark: f"&#{ord(mark[0])};", harmless(text))


def code(text: str) -> str:
    """The same, set as code where nothing in it could end that."""
    return f"`{text}`" if re.fullmatch(r"[\w .,:*/+-]+", text) else markdown(text)


def table(published: Path, short: bool = False) -> str:
    """Claims by presets, two marks each, from the claims.json of each.

    The short one has the README's room: marks and values alone.
    """
    found = in_order(published)
    if not found:
        return "No run has been published yet.\n"
    presets, runs = list(found), {name: files.read_json(published / name / "run.json") for name in found}
    lines = grid({name: {str(entry["id"]): entry for entry in found[name]} for name in presets}, short)
    if short:
        return "\n".join(lines) + "\n"
    lines.append("| *other than the preset* | " + " | ".join(changes(runs[name]["command"]) for name in presets) + " |")
    counts = [len(runs[name]["seeds"]) for name in presets]
    lines.append("| *seeds* | " + " | ".join(map(str, counts)) + " |")
    return "\n".join([*lines, "", LEGEND]) + "\n"


def grid(found: Mapping[str, Mapping[str, dict[str, Any]]], short: bool) -> list[str]:
    """Lines of a table: claims by columns, of {name of a column: {name of a claim: its entry in claims.json}}."""
    lines = ["| claim | " + " | ".join(f"`{name}`" for name in found) + " |", "|---" * (1 + len(found)) + "|"]
    claimed = {name: entry for column in found.values() for name, entry in column.items()}
    for name in sorted(claimed, key=lambda name: int(re.sub(r"\D.*", "", name))):
        cells = []
        for entry in (column.get(name) for column in found.values()):
            cell = f"{marks(entry)} {italic(markdown(measured(entry, short)), entry)}".strip() if entry else ""
            cells.append(cell.replace(" ", NARROW) if short else cell)
        lines.append(f"| {name}. {markdown(claimed[name]['statement'])} | " + " | ".join(cells) + " |")
    return lines


def questions(published: Path, short: bool = False) -> str:
    """The claims on the paper's open questions by the network that each was asked of; nothing where none is there."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run, entries in of_questions(published).items():
        data = run.partition("-")[2]
        for entry in entries:
            name, _, network = entry["id"].partition(", ")
            found.setdefault(f"{network}, {data}" if data else network, {})[name] = entry
    said = f"The paper's [open questions]({'docs' if short else '..'}/open_questions.md), on digits, by network:"
    return "\n".join(["", said, "", *grid(found, short)]) + "\n" if found else ""


def of_questions(published: Path) -> dict[str, list[dict[str, Any]]]:
    """The claims of every published run on an open question, by its directory in results/."""
    paths = sorted(published.glob("open_questions/*/claims.json"))
    return {str(path.parent.relative_to(published)): _read(path) for path in paths}


def in_order(published: Path) -> dict[str, list[dict[str, Any]]]:
    """The claims of every published run, in the order of their presets."""
    order, commands = list(PRESETS), {}
    for path in sorted(published.glob("*/claims.json")):
        commands[path.parent] = files.read_json(path.with_name("run.json"))["command"]
    places = sorted(commands, key=lambda place: (order.index(commands[place].split()[3]), place.name))
    return {place.name: _read(place / "claims.json") for place in places}


LEGEND = (
    "First mark, does the sentence hold: "
    + ", ".join(f"{sign} {verdict}" for verdict, sign in claims.MARKS.items())
    + ". Second mark, is the value ahead of the null, the same measure without what the sentence credits, mostly "
    "without learning: "
    + ", ".join(f"{sign} {mark}" for mark, sign in claims.BEATS.items())
    + ". Values in italics decide nothing: they are of sites or networks that the sentence is not about, or not "
    "measured as it asks. Every claim, its formula, threshold and null: [the claims](../claims.md)."
)


def marks(entry: dict[str, Any]) -> str:
    """The two marks of a claim."""
    return f"{claims.MARKS[entry['verdict']]} {claims.BEATS[entry['beats_null']]}"


def measured(entry: dict[str, Any], short: bool = False) -> str:
    """What decides a claim: value, and unless `short` null, site, and one run where it is one."""
    if not entry["conditions"]:
        return ""
    among = [c for c in entry["conditions"] if c["scope"] == entry["scope"]]
    deciding = min(among, key=lambda c: {"no": 0, "undecided": 1}.get(c["holds"], 2))
    scale, unit = (100, " " + deciding["unit"]) if deciding["unit"] in ("%", "points") else (1, "")
    digits = 1 if scale == 100 or deciding["unit"] == "ranks" else 2

    def shown(value: float | None) -> str:
        return "?" if value is None else f"{scale * value:.{digits}f}"

    said = f"{shown(deciding['value']['value'])}{unit or (' ' + deciding['unit']).rstrip()}"
    if short:
        return said
    said += "".join(f", null {shown(n['value'])}" for n in deciding["nulls"] if n["decides"])
    said += ", one run" if deciding["value"]["seeds"] == 1 else ""
    return f"{said} ({deciding['site']})"


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return claims.read(files.read_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}): publish its run again") from None


def italic(text: str, entry: dict[str, Any]) -> str:
    """In italics where it is beyond what the sentence is about."""
    return f"*{text}*" if text and entry["scope"] == "beyond" else text


def write_spread(published: Path) -> None:
    """Measure how far seeds are apart, on the published digits, for the intervals of one run (see `claims.spread`)."""
    path = published / "digits" / "claims.json"
    if not path.exists():
        return
    entries = _read(path)
    seeds = max((c["value"]["seeds"] for entry in entries for c in entry["conditions"]), default=0)
    if seeds >= 3:
        found = {"of": "digits", "seeds": seeds, "deviation": claims.spread.of_claims(entries)}
        files.write_text(Path(claims.__file__).parent / claims.spread.NAME, json.dumps(found, indent=2) + "\n")


def verdicts(published: Path, short: bool = False) -> str:
    """What stands between a page's two marks."""
    return table(published, short) + questions(published, short)


PAGES = {"README.md": True, "docs/results/index.md": False}
"""Where the tables are, and whether it is the short one."""
CONDITIONS = "docs/results/conditions.md"
"""The page of all values that the verdicts rest on."""


def with_table(page: str, made: str, name: str = "README.md") -> str:
    """A page with the table between its two marks. Raises InputError where it has none."""
    if BEGIN not in page or END not in page:
        raise InputError(f"{name} has no place for the verdicts: put {BEGIN.strip()} and {END.strip()} into it")
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + made + END + rest.partition(END)[2]


@entry_point
def main() -> None:
    """The command line: RUN_DIR ..."""
    names = sys.argv[1:]
    if {"-h", "--help"} & set(names):
        print(about)
        return
    if not (ROOT / "pyproject.toml").exists():  # such as site-packages
        raise InputError(f"{ROOT} is no checkout of neuron_mech: publish from one, where results/ and docs/ are")
    results = ROOT / "results"
    for name in names:
        of_question = (Path(name) / "options.json").exists()
        (publishing.publish if of_question else publish)(Path(name), results)
    write_spread(results)
    for name, short in PAGES.items():
        page = ROOT / name
        files.write_text(page, with_table(files.read_text(page), verdicts(results, short), name))
    files.write_text(ROOT / CONDITIONS, conditions.page(in_order(results) | of_questions(results)))
