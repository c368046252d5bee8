"""The house in order: lint, types, and arrows between rooms that run one way."""

import ast
import subprocess
import sys

import pytest
from drawing import ORDER, drawing, imports, rooms

from places import ROOT


@pytest.mark.parametrize("command", [("ruff", "check"), ("mypy",)], ids=" ".join)
def test_lint_and_types(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_arrows_run_one_way():
    for path, room in rooms().items():
        if room in ("__init__", "__main__"):
            continue
        assert room in ORDER, f"{room} has no place in the order"
        allowed = {*ORDER[: ORDER.index(room)], room}
        assert imports(path) <= allowed, f"{path.name} imports {imports(path) - allowed}"


def test_the_drawing_in_the_pages_is_of_the_house_as_it_is():
    assert drawing() in (ROOT / "docs" / "design.md").read_text(encoding="utf-8"), "python tests/house/drawing.py"


def test_no_file_is_longer_than_a_sitting():
    for part in ("neuron_mech", "experiments"):
        for path in (ROOT / part).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path


def test_results_and_figures_know_no_models():
    for path, room in rooms().items():
        if room not in ("paper", "store"):
            continue
        assert not imports(path) & {"taps", "training", "recording", "runs"}


def test_files_are_utf_8_whatever_the_locale():
    for path in (*(ROOT / "neuron_mech").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            ours = isinstance(node.func.value, ast.Name) and node.func.value.id == "files"
            if node.func.attr in ("read_text", "write_text") and not ours:
                assert any(word.arg == "encoding" for word in node.keywords), f"{path}:{node.lineno}"
