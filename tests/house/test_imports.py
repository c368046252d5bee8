"""The first answer comes soon: what takes long to import waits until it is used."""

import ast
import subprocess
import sys

import pytest

SLOW = ("grain", "h5py", "jinja2", "matplotlib", "orbax", "pandas", "scipy", "sklearn", "tensorflow_datasets", "xarray")


def loaded(program: str) -> list[str]:
    """Which of the slow libraries a process has imported when `program` has ended."""
    last = f"import sys; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{program}\n{last}"], capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments", [["--help"], ["digits", "--train.epohs", "3"], ["digits", "--train.epochs", "-1"]]
)
@pytest.mark.parametrize("name", ["train", "learning_dynamics", "binarization", "controls", "prepare_data", "report"])
def test_a_command_answers_before_it_imports_what_is_slow(name, arguments):
    program = f"""
import runpy, sys
sys.argv = ["", *{arguments}]
try:
    runpy.run_module("experiments.{name}", run_name="__main__", alter_sys=True)
except SystemExit:
    pass"""
    assert loaded(program) == []


@pytest.mark.parametrize("module", ["neuron_mech", "experiments.reproduce", "experiments.publish"])
def test_a_module_is_imported_without_what_is_slow(module):
    assert loaded(f"import {module}") == []
