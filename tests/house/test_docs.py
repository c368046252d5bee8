"""The pages: their commands and links are good, their examples run, and the site is built without a warning."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_house import ORDER

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
