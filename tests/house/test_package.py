"""What is installed: the wheel holds the package alone, the source distribution everything, and its tests run."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import neuron_mech
from experiments import __main__ as listing
from experiments.publish import command as publish
from neuron_mech.errors import InputError
from neuron_mech.training import datasets
from places import ROOT

pytestmark = pytest.mark.long

FOLDERS = (".ci", ".github", "docs", "experiments", "neuron_mech", "notebooks", "results", "tests")
UNPACKED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A directory with the wheel and the source distribution of a copy of the checkout."""
    pytest.importorskip("build", reason="the extra test is not installed")
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=UNPACKED)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, copy)
    asked = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def test_the_wheel_holds_the_package_alone(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        metadata = wheel.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    about = f"neuron_mech-{neuron_mech.__version__}.dist-info/"
    assert {name.split("/")[0] + "/" for name in names} == {"neuron_mech/", about}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "neuron_mech").rglob("*.py")}
    others = {"neuron_mech/py.typed"}
    for ending in ("jinja", "css", "js", "json"):
        others |= {str(path.relative_to(ROOT)) for path in (ROOT / "neuron_mech").rglob(f"*.{ending}")}
    assert {name for name in names if name.startswith("neuron_mech/")} == modules | others
    assert {f"{about}{name}" for name in ("METADATA", "RECORD", "WHEEL", "top_level.txt", "licenses/LICENSE")} == {
        name for name in names if name.startswith(about)
    }
    said = metadata.splitlines()
    assert "License-Expression: Apache-2.0" in said
    assert "Author: The neuron_mech authors" in said
    assert not any(line.startswith("Project-URL") for line in said), "there is no home on the web yet"
    heavy = ("tensorflow-datasets", "array-record", "grain", "mkdocs", "tensorboardX", "keras", "torch")
    required = [line for line in said if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert len(required) > 10
    assert not [line for line in required if any(name in line for name in heavy)]


def test_the_source_distribution_is_the_checkout_and_its_tests_run(built, tmp_path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    for folder in FOLDERS:
        here = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        here = {path for path in here if "__pycache__" not in path.parts}
        assert here <= {path.relative_to(unpacked) for path in (unpacked / folder).rglob("*")}, folder
    for name in ("README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml"):
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes()
    quick = [
        "tests/house/test_docs.py",
        "tests/commands/test_publish.py",
        "-k",
        "understood or links or short or current",
    ]
    # The package that is tested is that of the directory: it comes before any that is installed.
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "JAX_PLATFORMS": "cpu"}
    asked = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *quick]
    done = subprocess.run(asked, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40


def test_the_version_is_one():
    source = ast.parse((ROOT / "neuron_mech" / "__init__.py").read_text(encoding="utf-8"))
    written = {node.targets[0].id: node.value for node in source.body if isinstance(node, ast.Assign)}
    assert ast.literal_eval(written["__version__"]) == neuron_mech.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {neuron_mech.__version__}\n" in citation
    assert f"\n## {neuron_mech.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_elsewhere_one_line_says_where_the_experiments_are(tmp_path):
    (tmp_path / "experiments").mkdir()  # somebody's own
    (tmp_path / "experiments" / "__init__.py").write_text("mine = True\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    def said(*arguments: str) -> str:
        asked = [sys.executable, *arguments]
        return subprocess.run(
            asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout.rstrip("\n")

    line = said("-m", "neuron_mech")
    assert "\n" not in line
    assert "checkout" in line
    assert said("-c", "import neuron_mech, experiments; print(experiments.mine)") == "True"


def test_every_experiment_is_listed_with_what_it_does():
    known = dict(listing.launchable())
    assert {"reproduce", "train", "quantization", "benchmark", "text", "full_scale", "publish"} <= set(known)
    assert "command_line" not in known
    assert all(known.values())
    for name in known:
        assert f"\n  {name} " in listing.listing()
    assert {name for names in listing.GROUPS.values() for name in names} == set(known)


def test_nothing_is_published_into_site_packages(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["publish"])
    with pytest.raises(SystemExit) as stop:
        publish.main()
    assert stop.value.code == 2
    assert "is no checkout of neuron_mech" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["tensorflow_datasets", "grain", "array_record"])
def test_without_the_extra_data_the_digits_are_there_and_mnist_is_one_line(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert len(datasets.load(datasets.Data("digits")).train) == 1437
    with pytest.raises(InputError, match=rf"extra `data`, of which {missing} is .*'neuron_mech\[data\]'"):
        datasets.load(datasets.Data("mnist"))
