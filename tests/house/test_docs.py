"""Commands of the pages are commands: every option they name is there."""

import re
import shlex

import pytest

from places import ROOT
from understanding import understand

PAGES = sorted((ROOT / "docs").glob("*.md"))


def commands() -> list[tuple[str, list[str]]]:
    """(experiment, its arguments) of every command in a page's blocks."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            lines = block.replace("\\\n", " ").replace("$PRESET", "digits").splitlines()
            calls = (re.search(r"-m experiments\.(\w+) (.*)", line) for line in lines)
            found += [(call[1], shlex.split(call[2].partition(" > ")[0], comments=True)) for call in calls if call]
    return found


@pytest.mark.parametrize(("name", "arguments"), commands(), ids=lambda part: part if isinstance(part, str) else "")
def test_a_command_of_the_pages_is_understood(name, arguments):
    understand(name, arguments)


def test_there_are_commands():
    assert len(commands()) > 5
