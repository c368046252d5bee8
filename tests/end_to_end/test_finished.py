"""What is finished is believed while it verifies: damaged or gone it is made again, and nothing is replaced by less."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from experiments import report, reproduce
from experiments.publish import command as publish
from neuron_mech import store
from neuron_mech.errors import InputError, RunError
from neuron_mech.paper import claims
from neuron_mech.store import files
from places import ROOT
from small_runs import REPRODUCED

pytestmark = pytest.mark.long


def again(monkeypatch, directory: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce", *REPRODUCED, "--run-dir", str(directory)])
    reproduce.main()


def flip_an_exponent_bit(path: Path) -> None:
    """Where HDF5 does not notice."""
    with h5py.File(path, "r+") as file:
        values = file["constancy"][...]
        values.view(np.uint64)[0] ^= np.uint64(1) << np.uint64(53)
        file["constancy"][...] = values


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = [
    # Files of several steps at once, and several of a step: each step is done again, and says why.
    {
        "gradient_signs.nc": flip_an_exponent_bit,
        "figures/figure1.png": truncate,
        "figures/figure8.svg": Path.unlink,
        "quantization.nc": truncate,
        "binarization.nc": truncate,
    },
    # Of each step something is left.
    {
        "train.nc": Path.unlink,
        "figures/training.png": Path.unlink,
        "table1.txt": Path.unlink,
        "figures/figure4.png": Path.unlink,
        "report.html": truncate,
        "claims.json": Path.unlink,
    },
    {"report.html": Path.unlink, "claims.json": truncate},
]


@pytest.fixture(scope="module")
def repaired(reproduced, tmp_path_factory):
    """A copy of the reproduced run, to be damaged and made whole again in every test."""
    return shutil.copytree(reproduced, tmp_path_factory.mktemp("damaged") / "digits")


@pytest.mark.parametrize("damages", DAMAGES, ids=", ".join)
def test_what_is_damaged_or_gone_is_made_again_with_a_line(repaired, reproduced, monkeypatch, capsys, damages):
    for name, damage in damages.items():
        damage(repaired / name)
    capsys.readouterr()
    again(monkeypatch, repaired)
    said = "".join(capsys.readouterr())
    assert report.sealed(repaired / "report.html")
    assert (repaired / "claims.json").read_bytes() == (reproduced / "claims.json").read_bytes()
    for name, damage in damages.items():
        if name != "report.html":  # which has times
            assert (repaired / name).read_bytes() == (reproduced / name).read_bytes()
        if name.startswith(("report", "claims")):
            assert damage is Path.unlink or "damaged" in said
        else:
            assert re.search(rf"again: .*{re.escape(name)} is not", said)
    before = {path: path.stat().st_mtime_ns for path in repaired.rglob("*") if path.is_file() and path.name != ".lock"}
    again(monkeypatch, repaired)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_without_checksums_all_is_made_again_and_a_video_that_the_disk_had_no_room_for_comes_back(
    repaired, reproduced, monkeypatch, capsys
):
    write = files.write

    def full(path, save):
        if path.parent.name == "videos":
            raise RunError(f"cannot write {path} (No space left on device)")
        write(path, save)

    truncate(repaired / "checksums.json")
    shutil.rmtree(repaired / "videos")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        again(patch, repaired)
    said = capsys.readouterr().out
    assert len(re.findall("again: it was not finished", said)) > 5
    assert "No space left on device" in said
    for kind in ("*.nc", "*.json", "figures/*"):
        for path in reproduced.glob(kind):
            if path.name not in ("checksums.json", "provenance.json"):  # what was there before, and times
                assert path.read_bytes() == (repaired / path.relative_to(reproduced)).read_bytes()
    again(monkeypatch, repaired)
    assert "again: videos/dense1-relu.mp4 is not there, videos/dense2-relu.mp4 is not there" in capsys.readouterr().out
    assert {path.name for path in (repaired / "videos").iterdir()} == {"dense1-relu.mp4", "dense2-relu.mp4"}
    for path in (repaired / "videos").iterdir():
        assert path.read_bytes() == (reproduced / "videos" / path.name).read_bytes()


def test_a_report_believes_no_damaged_file_and_says_what_is_less(reproduced, tmp_path, monkeypatch, capsys):
    directory = shutil.copytree(reproduced, tmp_path / "digits")
    verdict = claims.read((directory / "claims.json").read_text())[0]["verdict"]
    flip_an_exponent_bit(directory / "gradient_signs.nc")
    truncate(directory / "figures" / "figure8.png")
    monkeypatch.setattr(sys, "argv", ["report", str(directory)])
    report.main()
    said = capsys.readouterr().err
    assert "gradient_signs.nc cannot be read (it is not what was written)" in said
    assert "left out: figures/figure8.png is not what was written" in said
    assert f"claim 1 was {verdict} and is not tested now: " in said
    with pytest.raises(InputError, match=r"gradient_signs.nc .*: run `python -m experiments.reproduce digits` again"):
        publish.publish(directory, tmp_path / "published")


def test_no_locale_loses_anything(reproduced, tmp_path):
    directory = shutil.copytree(reproduced, tmp_path / "digits")
    (directory / "claims.json").unlink()
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.report", str(directory)],
        env=os.environ | ascii_only,
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (directory / "claims.json").read_bytes() == (reproduced / "claims.json").read_bytes()
    assert report.sealed(directory / "report.html")


def test_claims_that_are_not_the_files_are_not_published(reproduced, tmp_path):
    directory = shutil.copytree(reproduced, tmp_path / "digits")
    path = directory / "claims.json"
    path.write_text(path.read_text().replace("undecided", "supported"))
    with pytest.raises(InputError, match=r"claims\.json is not what the result files beside it say"):
        publish.publish(directory, tmp_path / "published")


def test_a_file_is_believed_at_every_moment_of_being_replaced(tmp_path, monkeypatch):
    """A process killed between noting a checksum and putting the file in place leaves the one before."""
    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / "a.nc"
    store.write_dataset(path, xr.Dataset({"a": ("x", [1.0])}))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            store.write_dataset(path, xr.Dataset({"a": ("x", [2.0])}))
    assert store.whole(path)
    assert store.read_dataset(path).a.item() == 1
    store.write_dataset(path, xr.Dataset({"a": ("x", [3.0])}))
    assert store.read_dataset(path).a.item() == 3
    assert len(json.loads((tmp_path / "checksums.json").read_text())["files"]["a.nc"]) == 2


def dies(part: Path, path: Path) -> None:
    if path.name == "a.nc":
        raise KeyboardInterrupt
    part.rename(path)


def test_files_outside_are_none_of_its_own(tmp_path):
    (tmp_path / "outside").write_text("")
    (tmp_path / "run").mkdir()
    for name in ("../outside", str(tmp_path / "outside"), "figures/../../outside"):
        text = json.dumps({"files": {}, "done": {"train": [name]}})
        (tmp_path / "run" / "checksums.json").write_text(text)
        assert store.lost(tmp_path / "run", "train") is None


def test_a_claim_on_fewer_seeds_or_values_is_said(reproduced):
    found = claims.claims(claims.findings(reproduced))
    tree = json.loads(claims.text(found))
    assert claims.fewer(claims.text(found).encode(), found) == []
    tree["claims"][0]["conditions"][0]["value"]["seeds"] = 5
    tree["claims"][1]["conditions"] *= 2
    one, other = claims.fewer(json.dumps(tree).encode(), found)
    assert re.fullmatch(r"claim 1 was .* by 4 values and 5 seeds, and is .* by 4 values and 1 seeds now", one)
    assert re.fullmatch(r"claim 2 was .* by 4 values and 1 seeds, and is .* by 2 values and 1 seeds now", other)
    assert "of another version" in claims.fewer(b"[]", found)[0]


def test_a_step_that_fails_is_not_done(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    at = type("Run", (), {"directory": tmp_path})

    @store.step("study")
    def make(run, fails):
        store.write_result(run.directory / "figures" / "a.txt", lambda part: part.write_text("a"))
        if fails:
            raise RuntimeError

    make(at, fails=False)
    assert store.lost(tmp_path, "study") == []
    with pytest.raises(RuntimeError):
        make(at, fails=True)
    assert store.lost(tmp_path, "study") is None
