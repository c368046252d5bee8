"""Commands of the pages are commands: every option they name is there."""

import importlib
import re
import shlex

import pytest

from experiments import export
from experiments.benchmark.ours import BENCHMARKED
from experiments.benchmark.rounds import Options
from experiments.command_line import Seeded, ask, parse
from experiments.full_scale import command
from places import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
OPTIONS = {
    "reproduce": "ReproduceOptions",
    "quantization": "QuantizationOptions",
    "binarization": "BinarizationOptions",
    "learning_dynamics": "DynamicsOptions",
    "precision": "PrecisionOptions",
}


def commands() -> list[tuple[str, list[str]]]:
    """(experiment, its arguments) of every command in a page's blocks."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            lines = block.replace("\\\n", " ").replace("$PRESET", "digits").splitlines()
            calls = (re.search(r"-m experiments\.(\w+) (.*)", line) for line in lines)
            found += [(call[1], shlex.split(call[2].partition(" > ")[0], comments=True)) for call in calls if call]
    return found


def understand(name: str, arguments: list[str]) -> None:
    """Raise InputError where an experiment has no such options."""
    module = importlib.import_module(f"experiments.{name}")
    if name == "benchmark":
        assert arguments[0] in BENCHMARKED
        ask(Options, Options(), arguments[1:], name, "")
    elif name == "full_scale":
        command.parse(arguments)
    elif name == "export" and arguments[0] != "--unpack":
        ask(export.ExportOptions, export.ExportOptions(), arguments[2:], "export", "")
    elif name in ("export", "report", "prepare_data", "same_bits"):
        assert module.main
    else:
        parse(arguments, name, "", getattr(module, OPTIONS.get(name, ""), Seeded))


@pytest.mark.parametrize(("name", "arguments"), commands(), ids=lambda part: part if isinstance(part, str) else "")
def test_a_command_of_the_pages_is_understood(name, arguments):
    understand(name, arguments)


def test_there_are_commands():
    assert len(commands()) > 5
