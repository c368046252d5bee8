"""Somebody else's run directory: nothing outside it is read or changed, and what it says is checked."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import xarray as xr
from PIL import Image

from experiments import command_line, report
from experiments.publish import command as publish
from neuron_mech import store
from neuron_mech.config import PRESETS
from neuron_mech.errors import InputError
from neuron_mech.paper import claims
from neuron_mech.store import files


def called(monkeypatch, capsys, module, *arguments) -> tuple[int, str]:
    """(exit code, stderr) of a command."""
    monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        module.main()
    return stop.value.code, capsys.readouterr().err


# --- Links and pipes --------------------------------------------------------------------------------------------------

PLACES = ("table1.txt", "figures/figure5.png", "trajectories/close-dense1.npy", "claims.json", ".lock", "seed1", "a/b")


@pytest.mark.parametrize("place", PLACES)
def test_a_link_in_a_run_directory_is_refused_and_its_file_left_alone(run, mine, monkeypatch, capsys, place):
    path = run / place
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(mine)
    said = rf"{path} is a link to {mine}, which a run directory may not hold: remove it"
    for module in (report, publish):
        code, err = called(monkeypatch, capsys, module, run)
        assert (code, err) == (2, f"error: {said}\n")
    with pytest.raises(InputError, match=said), store.opened(run, PRESETS["digits"]):
        pass
    assert mine.read_text() == "mine"


def test_a_pipe_is_not_waited_for(run):
    os.mkfifo(run / "claims.json")
    with pytest.raises(InputError, match=r"claims.json is neither file nor directory"):
        store.read_config(run)
    with pytest.raises(OSError, match="no regular file"):
        files.read(run / "claims.json")


def test_a_directory_may_itself_be_a_link(run, tmp_path):
    (tmp_path / "other").symlink_to(run)
    assert store.read_config(tmp_path / "other") == PRESETS["digits"]


# --- Configs and verdicts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preset": "../../../tmp/elsewhere"}, "which does not exist"),
        ({"preset": ["digits"]}, "cannot be read as a config"),
        ({"data": {"name": "a\n<b>"}}, "data.name is .*: give text in one line"),
        ({"train": {"epochs": True}}, "train.epochs is True: give a whole number"),
        ({"train": {"epochs": 10**30}}, "train.epochs is 10+: give a whole number of at most 100,000"),
        ({"watch": None}, "cannot be read as a config"),
    ],
)
def test_a_config_from_elsewhere_is_checked(run, tmp_path, change, said):
    tree = json.loads((run / "config.json").read_text())
    for section, fields in change.items():
        tree[section] = tree[section] | fields if isinstance(fields, dict) else fields
    (run / "config.json").write_text(json.dumps(tree))
    for read in (store.read_config, claims.findings, lambda at: publish.publish(at, tmp_path / "results")):
        with pytest.raises(InputError, match=rf"config.json cannot be read as a config \(.*{said}|{said}"):
            read(run)
    assert not (tmp_path / "results").exists()


def test_only_verdicts_that_the_results_give_are_published(run, tmp_path):
    report.finish(run)
    publish.publish(run, tmp_path / "results")
    verdicts = run / "claims.json"
    verdicts.write_text(verdicts.read_text().replace("not tested", "supported", 1))
    with pytest.raises(InputError, match=r"claims.json is not what the result files beside it say: run `python -m"):
        publish.publish(run, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_text_in_the_readme_is_nothing_but_text():
    raw = "<img src=x onerror=alert(1)> | [a](http://b) `c` **d**\n# e"
    made = publish.markdown(raw)
    assert not set(made) & set("<>|[]`*\n")
    assert publish.markdown("Wholly in ±1 (dense2-relu), 77.6 %") == "Wholly in ±1 (dense2-relu), 77.6 %"
    assert publish.code("record.sites dense1") == "`record.sites dense1`"
    assert "`" not in publish.code("a` <b> `c")


def test_a_picture_of_absurd_size_is_refused(tmp_path):
    Image.new("1", (40_000, 40_000)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    for name in ("a.png", "b.png"):
        with pytest.raises(InputError, match=rf"{name} cannot be read"):
            publish.smaller(tmp_path / name)


def test_a_result_file_of_another_kind_makes_no_page(run, monkeypatch):
    nothing = xr.Dataset({"a": ("b", [1.0])}, attrs={"seed": "x", "top": [1, 2]})
    for name in ("train", "gradient_signs", "learning_dynamics", "class_consistency", "controls", "quantization"):
        store.write_dataset(run / f"{name}.nc", nothing)
    (run / "provenance.json").write_text('{"device": 1, "cores": {}, "versions": [], "seconds": {"a": "b"}}')
    monkeypatch.chdir(run)
    report.finish(Path("."))
    assert "another version" in (run / "report.html").read_text()


def test_result_files_of_another_format_are_refused_and_the_verdicts_on_them_stay(run):
    (run / "claims.json").write_text("the verdicts of before")
    xr.Dataset({"neuron_constancy_dense1": ("neuron_dense1", [0.5])}).to_netcdf(
        run / "gradient_signs.nc", engine="h5netcdf"
    )
    with pytest.raises(InputError, match=r"gradient_signs.nc is of result format 1, .* remove it and run"):
        report.finish(run)
    assert (run / "claims.json").read_text() == "the verdicts of before"


# --- What ends a command ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(5, "Input/output error", "a\nb"), 1, r"error: a\\nb: Input/output error: look at the disk"),
        (MemoryError("of 8 TiB"), 1, r"error: out of memory \(of 8 TiB\)"),
        (InputError("a\x1b[2J\nb"), 2, r"error: a\\x1b\[2J\\nb"),
    ],
)
def test_what_the_system_refuses_is_one_line(capsys, error, code, said):
    def work():
        raise error

    with pytest.raises(SystemExit) as stop:
        command_line.exiting(work)
    assert stop.value.code == code
    assert re.fullmatch(said + r".*\n", capsys.readouterr().err)
