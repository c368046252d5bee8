"""The house in order: lint, types, and arrows between rooms that run one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT

ORDER = [
    "errors",
    "lazily",
    "precision",
    "config",
    "cluster",
    "store",
    "taps",
    "training",
    "codes",
    "recording",
    "runs",
    "paper",
]
"""Every room of the package; a room may import only from those before it."""


@pytest.mark.parametrize("command", [("ruff", "check"), ("mypy",)], ids=" ".join)
def test_lint_and_types(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def imports(path: Path) -> set[str]:
    """Names of the package's rooms that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] in ("neuron_mech", "experiments")
        ):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
            found |= {"experiments"} if parts[0] == "experiments" else set()
    return found


def test_arrows_run_one_way():
    rooms = {
        path: path.relative_to(ROOT / "neuron_mech").parts[0].removesuffix(".py")
        for path in (ROOT / "neuron_mech").rglob("*.py")
    }
    for path, room in rooms.items():
        if room == "__init__":
            continue
        assert room in ORDER, f"{room} has no place in the order"
        allowed = {*ORDER[: ORDER.index(room)], room}
        assert imports(path) <= allowed, f"{path.name} imports {imports(path) - allowed}"


def test_results_and_figures_know_no_models():
    rooms = ROOT / "neuron_mech"
    for path in (*(rooms / "paper").rglob("*.py"), *(rooms / "store").rglob("*.py")):
        assert not imports(path) & {"taps", "training", "recording", "runs"}


def test_files_are_utf_8_whatever_the_locale():
    for path in (*(ROOT / "neuron_mech").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            ours = isinstance(node.func.value, ast.Name) and node.func.value.id == "files"
            if node.func.attr in ("read_text", "write_text") and not ours:
                assert any(word.arg == "encoding" for word in node.keywords), f"{path}:{node.lineno}"
