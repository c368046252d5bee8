"""A run brought home without its tallies: the same bits, and all that can be done from its parameters is done there."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import (
    binarization,
    class_consistency,
    export,
    learning_dynamics,
    quantization,
    report,
    reproduce,
    train,
)
from experiments import gradient_signs as signs
from neuron_mech import runs, store
from neuron_mech.errors import InputError, RunError
from neuron_mech.paper import claims, figures
from neuron_mech.runs import loop, measuring, planning
from neuron_mech.store import checkpoints, parameters
from neuron_mech.training import datasets
from small_runs import REPRODUCED

pytestmark = pytest.mark.long


def command(monkeypatch, module, *arguments):
    """The module's command line, in this process."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    name = module.__name__.rpartition(".")[2]
    if name in ("export", "report", "reproduce"):
        module.main()
    elif hasattr(module, "experiment"):
        kind = {"quantization": "QuantizationOptions", "binarization": "BinarizationOptions"}.get(name)
        module.main(name, module.__doc__, module.experiment, getattr(module, kind or "DynamicsOptions"))
    else:
        module.main_of_runs(name, module.__doc__, module.report, module.summary)


def refused(monkeypatch, capsys, module, *arguments) -> str:
    """What a command says that is refused, in a line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, module, *arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


@pytest.fixture(scope="module")
def exported(reproduced, tmp_path_factory):
    """The first piece of an export of the reproduced run."""
    first = tmp_path_factory.mktemp("out") / "digits.zip"
    export.export(reproduced, first, export.ExportOptions(limit=1.0))
    return first


@pytest.fixture
def home(exported, tmp_path, monkeypatch):
    """It, unpacked."""
    command(monkeypatch, export, "--unpack", exported, tmp_path / "digits")
    return tmp_path / "digits"


@pytest.fixture
def no_training(monkeypatch):
    """Nothing may train, nor ask for a run."""
    monkeypatch.setattr(loop, "_drive", lambda *_: pytest.fail("it trained"))
    monkeypatch.setattr(planning, "study", lambda *_: pytest.fail("it asked for the run"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_all_but_the_state_comes_home_to_the_byte(reproduced, exported, home):
    assert all(path.stat().st_size <= 1_000_000 for path in exported.parent.iterdir())
    there, here = (
        {path.relative_to(at): digest(path) for path in at.rglob("*") if path.is_file() and path.name != ".lock"}
        for at in (reproduced, home)
    )
    left = {path for path in there if path.parts[0] in ("checkpoints", "trajectories")}
    assert left
    assert here.pop(Path("parameters.npz"))
    assert here == {path: sum_ for path, sum_ in there.items() if path not in left}


def test_the_parameters_are_the_checkpoint_s_bits(reproduced, home):
    with store.opened(reproduced, store.read_config(reproduced)):
        trained = runs.run(store.read_config(reproduced), reproduced).state.train
    found = parameters.read(home)
    assert (found.step, found.steps) == (int(trained.step), 135)
    assert jax.tree.structure(found.variables) == jax.tree.structure(jax.device_get(trained.variables))
    for one, other in zip(jax.tree.leaves(found.variables), jax.tree.leaves(trained.variables), strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == np.asarray(other).tobytes()


def test_an_export_needs_no_data_and_changes_nothing(reproduced, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "load", lambda *_: pytest.fail("it asked for the data"))
    before = {path: path.stat().st_mtime_ns for path in reproduced.rglob("*")}
    command(monkeypatch, export, reproduced, tmp_path / "a.zip", "--leave-out", "report.html", "*.mp4")
    assert {path: path.stat().st_mtime_ns for path in reproduced.rglob("*")} == before
    assert "parameters of step 135 of 135" in capsys.readouterr().out
    command(monkeypatch, export, "--unpack", tmp_path / "a.zip", tmp_path / "back")
    assert not (tmp_path / "back" / "report.html").exists()
    assert not (tmp_path / "back" / "videos").exists()


def test_a_video_too_large_for_a_piece_stays_behind_and_is_said(reproduced, tmp_path, capsys):
    run = tmp_path / "digits"
    shutil.copytree(reproduced, run, ignore=shutil.ignore_patterns("figures", "report.html"))
    (run / "videos" / "dense1-relu.mp4").write_bytes(bytes(1_000_001))
    assert f"left out: {run}/videos/dense1-relu.mp4" in export.export(
        run, tmp_path / "a.zip", export.ExportOptions(limit=1.0)
    )


def test_of_checkpoints_the_newest_that_verifies(tmp_path):
    def saved(step: int) -> dict:
        train = {
            "params": {"w": np.random.default_rng(step).normal(size=(300, 50))},
            "statistics": {"batch_stats": {"m": np.ones(3)}},
        }
        return {"train": {**train, "step": np.int32(step)}, "history": {"loss": np.zeros(9)}, "counts": np.zeros(4)}

    with checkpoints.Checkpoints(tmp_path / "checkpoints") as saves:
        saves.save(1, saved(1))
        saves.save(2, saved(2))
    found = parameters.newest(tmp_path)
    assert (found.step, found.steps, found.damaged) == (2, 9, ())
    assert set(found.variables) == {"params", "batch_stats"}
    for step in (2, 1):
        kept = tmp_path / "checkpoints" / str(step)
        largest = max((f for f in (kept / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 0x10
        largest.write_bytes(content)
        if step == 2:
            found = parameters.newest(tmp_path)
            assert (found.variables["params"]["w"] == saved(1)["train"]["params"]["w"]).all()
            assert "step 2" in found.damaged[0]
            assert kept.exists(), "it is the run's to set aside"
    with pytest.raises(RunError, match=r"step 2 .* does not verify .*step 1 .*no older one is left"):
        parameters.newest(tmp_path)


def test_damaged_parameters_are_said(home):
    path = home / parameters.FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"parameters.npz cannot be read \(.*\): unpack the export again"):
        parameters.read(home)


def test_figures_of_codes_are_made_at_home_from_the_parameters(home, monkeypatch, no_training):
    """Figures 3 and 4 and table 1, from nothing but the parameters, are the run's own to the byte."""
    names = ["quantization.nc", "binarization.nc", "table1.txt", "figures/figure3.svg", "figures/figure4.svg"]
    expected = {name: digest(home / name) for name in names}
    for name in names:
        (home / name).unlink()
    command(monkeypatch, quantization, *REPRODUCED, "--run-dir", home)
    command(monkeypatch, binarization, *REPRODUCED, "--run-dir", home)
    assert {name: digest(home / name) for name in names} == expected


def test_what_needs_tallies_is_shown_or_refused_and_never_trained(reproduced, home, monkeypatch, capsys, no_training):
    known = {
        train: "test accuracy",
        signs: "constant",
        learning_dynamics: "separation",
        class_consistency: "categories",
    }
    for module, said in known.items():
        path = home / f"{module.__name__.rpartition('.')[2]}.nc"
        before = digest(path)
        command(monkeypatch, module, *REPRODUCED, "--run-dir", home)
        shown = capsys.readouterr().out
        assert said in shown
        assert f"as exported: {path}" in shown
        assert digest(path) == before
        assert (home / "provenance.json").read_bytes() == (reproduced / "provenance.json").read_bytes()
        path.unlink()
        said = refused(monkeypatch, capsys, module, *REPRODUCED, "--run-dir", home)
        assert f"{path} is not there" in said
        assert "tallies and trajectories did not come along" in said


def test_reproduced_at_home_it_does_what_can_be_done(home, monkeypatch, capsys, no_training):
    for name in ("learning_dynamics.nc", "quantization.nc", "claims.json", "report.html"):
        (home / name).unlink()
    command(monkeypatch, reproduce, *REPRODUCED, "--run-dir", home)
    assert "left out: learning_dynamics: " in capsys.readouterr().err
    assert (home / "quantization.nc").exists()
    assert not (home / "learning_dynamics.nc").exists()
    untested = [
        entry["id"] for entry in claims.read((home / "claims.json").read_text()) if entry["verdict"] == "not tested"
    ]
    assert untested == [3, 4, 5, 6]
    assert "learning_dynamics.nc" in (home / "report.html").read_text()
    said = refused(monkeypatch, capsys, reproduce, *REPRODUCED, "--run-dir", home, "--seeds", "2")
    assert "an export without seed 1: give fewer" in said


def test_at_home_there_is_a_report(home, monkeypatch, capsys):
    (home / "report.html").unlink()
    command(monkeypatch, report, home)
    assert (home / "report.html").stat().st_size > 1e5


def test_a_run_keeps_its_export_fresh_and_stopped_leaves_one(tmp_path, monkeypatch, capsys):
    """Stopped while it trains: what is exported is not taken for a finished network; gone on, it is."""
    run, first = tmp_path / "digits", tmp_path / "out" / "digits.zip"
    monkeypatch.setattr(figures, "write_figure", lambda *_: [])  # half of the time, and not what is asked
    arguments = ("digits", "--model.width", "0.125", "--watch.recordings", "0", "--train.epochs", "3", "--no-windows")
    arguments += ("--run-dir", run, "--export", first)
    measured = measuring.measures

    def stops(what, dataset):
        measure = measured(what, dataset)

        def stopping(*of):
            os.kill(os.getpid(), signal.SIGTERM)
            return measure(*of)

        return stopping

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "measures", stops)
        with pytest.raises(SystemExit) as stop:
            command(patch, reproduce, *arguments)
    assert stop.value.code == 128 + signal.SIGTERM
    command(monkeypatch, export, "--unpack", first, tmp_path / "half")
    said = refused(monkeypatch, capsys, quantization, *arguments[:-5], "--run-dir", tmp_path / "half")
    assert "an export of a run that had come to step 45 of 135: finish the run where it is" in said

    exports = []
    packed = export.pieces.pack
    monkeypatch.setattr(export.pieces, "pack", lambda files, *rest: exports.append(set(files)) or packed(files, *rest))
    command(monkeypatch, reproduce, *arguments)
    done = [[name for name in of if name.endswith((".nc", "claims.json"))] for of in exports]
    # Trained; signs, single ones and counts, and train.nc; classes; codes before and after activation; verdicts.
    assert [len(files) for files in done] == [0, 3, 4, 5, 6, 7]
    command(monkeypatch, export, "--unpack", first, tmp_path / "whole")
    assert parameters.read(tmp_path / "whole").step == 135


def test_without_a_checkpoint_there_are_no_parameters_and_that_is_said(reproduced, tmp_path, monkeypatch, capsys):
    run = tmp_path / "digits"
    shutil.copytree(reproduced, run, ignore=shutil.ignore_patterns("checkpoints", "figures", "report.html", "videos"))
    command(monkeypatch, export, run, tmp_path / "a.zip")
    assert f"{run}: no checkpoint" in capsys.readouterr().out
    command(monkeypatch, export, "--unpack", tmp_path / "a.zip", tmp_path / "back")
    said = refused(monkeypatch, capsys, quantization, *REPRODUCED, "--run-dir", tmp_path / "back")
    assert "an export of a run without a checkpoint, and so without parameters" in said


def test_where_an_export_cannot_be_is_said_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    said = refused(
        monkeypatch, capsys, reproduce, "digits", "--run-dir", tmp_path / "run", "--export", tmp_path / "file/a.zip"
    )
    assert "cannot be written" in said
    assert not (tmp_path / "run").exists()
    assert "holds no run" in refused(monkeypatch, capsys, export, tmp_path, tmp_path / "a.zip")


def test_every_seed_comes_along(reproduced, tmp_path):
    run = tmp_path / "digits"
    shutil.copytree(reproduced, run, ignore=shutil.ignore_patterns("figures", "report.html", "videos"))
    shutil.copytree(run, run / "seed1")
    for name, seed in (("config.json", '"seed": '), ("identity.json", '"train.seed": ')):
        path = run / "seed1" / name
        path.write_text(path.read_text().replace(f"{seed}0", f"{seed}1"))
    export.export(run, tmp_path / "a.zip", export.ExportOptions())
    subprocess.run([sys.executable, "-m", "zipfile", "-e", tmp_path / "a.zip", tmp_path / "back"], check=True)
    for place in ("", "seed1"):
        assert parameters.read(tmp_path / "back" / place).step == 135
        assert (tmp_path / "back" / place / "train.nc").exists()
