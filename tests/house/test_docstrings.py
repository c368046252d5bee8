"""Docstrings: their examples are what happens, and the names that the pages say to begin with have one."""

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from test_house import ORDER

import neuron_mech
from places import ROOT

pytestmark = pytest.mark.long


def test_examples_in_docstrings_are_what_happens(lenient):
    for module in pkgutil.walk_packages(neuron_mech.__path__, "neuron_mech."):
        if not module.name.endswith("__main__"):
            assert not doctest.testmod(importlib.import_module(module.name)).failed, module.name


def public() -> Iterator[tuple[str, str]]:
    """(module, name) of what neuron_mech itself offers, and of the pages' names to begin with.

    There a cell has parts such as `module`: `name`, `name`, or names of the room itself. Where words say what a module
    has, the module is named, and what is its own among the names in the words.
    """
    yield from (("neuron_mech", name) for name in neuron_mech.__all__)
    page = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    for room, cell in re.findall(r"^\| \[`(\w+)`\]\(\w+\.md\) \| (.+) \|$", page, re.MULTILINE):
        for module, said in re.findall(r"(?:`(\w+)`: )?([^;]+)(?:; |$)", cell):
            where = f"neuron_mech.{room}.{module}" if module else f"neuron_mech.{room}"
            names = re.findall(r"`(\w+)`", said)
            if not re.fullmatch(r"`\w+`(, `\w+`)*", said):
                yield f"neuron_mech.{room}", module
                inside = importlib.import_module(where)
                names = [name for name in names if getattr(inside, name).__module__.startswith(where)]
            yield from ((where, name) for name in names)


@cache
def examples_run_in(module: str) -> set[str]:
    """The docstrings of a module whose examples are run."""
    found = doctest.DocTestFinder().find(importlib.import_module(module))
    return {test.docstring for test in found if test.examples}


def has_example(of: Any, name: str, where: str) -> bool:
    """Whether its docstring has an example that is run, or, where that would take long, one to be read.

    Of a module, one of its functions may have it. A constant has no docstring: it stands in that of its module.
    """
    if inspect.ismodule(of):
        inside = (f"{of.__name__}.{part.name}" for part in pkgutil.iter_modules(getattr(of, "__path__", ())))
        return any(map(examples_run_in, (of.__name__, *inside)))
    if not callable(of):
        modules = pkgutil.walk_packages(importlib.import_module(where).__path__, f"{where}.")
        every = (importlib.import_module(module.name) for module in modules if not module.name.endswith("__main__"))
        of = next(at for at in every if re.search(rf"^{name}\b.* = ", inspect.getsource(at), re.MULTILINE))
    text, home = of.__doc__ or "", of.__name__ if inspect.ismodule(of) else of.__module__
    return text in examples_run_in(home) or "```python\n" in text


def test_public_names_have_an_example():
    names = list(dict.fromkeys(public()))
    rooms = {name for name in ORDER if (ROOT / "neuron_mech" / name).is_dir()}
    assert {where.split(".")[1] for where, _ in names if "." in where} == rooms
    missing = [f"{where}.{name}" for where, name in names if not hasattr(importlib.import_module(where), name)]
    assert not missing, f"there is no {', '.join(missing)}"
    at_hand = {(where, name): getattr(importlib.import_module(where), name) for where, name in names}
    lacking = [f"{where}.{name}" for (where, name), of in at_hand.items() if not has_example(of, name, where)]
    assert not lacking, f"no example in the docstring of {', '.join(lacking)}"


@pytest.mark.usefixtures("lenient")
def test_figures_draw_a_run_as_their_docstrings_say(reproduced, tmp_path, monkeypatch):
    known = """import neuron_mech, numpy as np
from neuron_mech.config import Data
from neuron_mech.paper import figures
from neuron_mech.training import datasets
"""
    run = neuron_mech.load(reproduced)  # once for all
    monkeypatch.setattr(neuron_mech, "load", lambda directory: run)
    monkeypatch.chdir(tmp_path)
    for path in (ROOT / "neuron_mech" / "paper" / "figures").glob("*.py"):
        for block in re.findall(
            r"^    ```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            if '"controls"' not in block:  # an experiment that a reproduced run does without
                exec(known + re.sub("^    ", "", block, flags=re.MULTILINE), {})
    assert len(list(tmp_path.glob("*.png"))) == 4
