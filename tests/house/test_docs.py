"""The pages: their commands and links are good, their examples run, and the site is built without a warning."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from test_house import ORDER

import neuron_mech
from forking import run
from places import ROOT
from understanding import understand

pytestmark = pytest.mark.long

PAGES = sorted((ROOT / "docs").rglob("*.md"))
READMES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]


def blocks(page: Path, language: str) -> list[str]:
    """A page's blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def words(arguments: str) -> list[str]:
    """A command's arguments, up to where its output goes; one inside of quotes may end with the outer one."""
    whole = arguments.partition(" > ")[0]
    return shlex.split(whole.removesuffix("'") if whole.count("'") % 2 else whole, comments=True)


def commands() -> list[tuple[str, list[str]]]:
    """(experiment, its arguments) of every command in a page's blocks."""
    found = []
    for page in (*READMES, *PAGES):
        for block in blocks(page, "sh"):
            lines = block.replace("\\\n", " ").replace("$PRESET", "digits").splitlines()
            calls = (re.search(r"-m experiments\.(\w+) (.*)", line) for line in lines)
            found += [(call[1], words(call[2])) for call in calls if call]
    return found


@pytest.mark.parametrize(("name", "arguments"), commands(), ids=lambda part: part if isinstance(part, str) else "")
def test_a_command_of_the_pages_is_understood(name, arguments):
    understand(name, arguments)


def test_there_are_commands():
    assert len(commands()) > 10


def test_the_readme_is_short_and_shows_a_picture():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    pictures = re.findall(r"!\[[^\]]{40,}\]\((results/[\w./-]+)\)", text)
    assert len(pictures) == 1
    assert (ROOT / pictures[0]).stat().st_size < 1_000_000


@pytest.mark.parametrize("page", [*READMES, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    """The site's own build holds links between pages; this one holds those that a code host follows."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith(("http", "#", "mailto:")):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_the_rooms_are_those_of_the_package():
    table = (
        (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## Rooms")[2].partition("## Choices")[0]
    )
    rooms = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert rooms == ORDER


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=lambda page: page.stem)
def test_sessions_of_the_pages_are_what_happens(page):
    result = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 3
    assert not result.failed


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


def test_the_whole_program_for_one_s_own_model_runs(tmp_path):
    (program,) = (block for block in blocks(ROOT / "docs" / "own_model.md", "python") if "class Net" in block)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg"}
    asked = [sys.executable, "-W", "error::UserWarning", "-c", program]
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "figure5.png").stat().st_size > 10_000


@pytest.mark.parametrize("example", ["class ViT", "class LanguageModel"])
def test_a_transformer_is_recorded_in_its_own_loop(example, tmp_path):
    (program,) = (block for block in blocks(ROOT / "docs" / "any_model.md", "python") if example in block)
    # As many recordings, closer together: a step of theirs takes long where programs are compiled fast.
    for said, instead in (("range(200)", "range(60)"), ("step % 10", "step % 3")):
        assert said in program
        program = program.replace(said, instead)
    strict = "import warnings; warnings.simplefilter('error', UserWarning)\n"
    done = run("-c", strict + program, cwd=tmp_path)
    assert done.returncode == 0, done.err[-2000:]
    shares = [float(share) for share in re.findall(r"([\d.]+)% constant", done.out)]
    assert len(shares) == 6 if "ViT" in example else 3
    assert all(1 < share < 90 for share in shares)


def test_the_ten_lines_are_the_same_everywhere_and_part_of_that_program():
    ten = [block for page in (ROOT / "README.md", ROOT / "docs" / "own_model.md") for block in blocks(page, "python")]
    assert ten[0] == ten[1]
    whole = ten[2]
    for line in (
        "recorder = recorder.update(",
        "if step % 10 == 0:",
        "for step in range(300):",
        "figures.average_sign",
    ):
        assert line in ten[0]
        assert line in whole


def test_result_files_are_read_as_the_pages_say(reproduced):
    (program,) = (b for b in blocks(ROOT / "docs" / "experiments.md", "python") if "runs/digits" in b)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg"}
    asked = [sys.executable, "-c", program]  # a process of its own: here more modules are imported than it says
    place = reproduced.parent.parent
    done = subprocess.run(asked, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


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


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings_handlers.python", reason="the extra docs is not installed")
    asked = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.relative_to(tmp_path).with_suffix(".md") for path in tmp_path.rglob("*.html")}
    assert {page.relative_to(ROOT / "docs") for page in PAGES} <= built
    navigation = (tmp_path / "index.html").read_text(encoding="utf-8")
    for page in PAGES:
        assert f'href="{page.relative_to(ROOT / "docs").with_suffix(".html")}"' in navigation or page.stem == "index"
    for path in (tmp_path / "api").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "<blockquote>\n<blockquote>" not in text, f"{path.name} has an example that is no code"
    for path in tmp_path.rglob("*.html"):
        fetched = re.findall(r'(?:src|<link[^>]*href)="(https?://[^"]+)"', path.read_text(encoding="utf-8"))
        assert not fetched, f"{path} asks for {fetched}"
