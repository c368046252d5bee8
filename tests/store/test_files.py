"""Somebody else's run directory: nothing outside it is read or changed, and nothing absurd is begun."""

import json
import os
import re
import stat
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from PIL import Image

from experiments import command_line, publish, report
from neuron_mech import store
from neuron_mech.config import PRESETS
from neuron_mech.errors import InputError, RunError, harmless
from neuron_mech.paper import claims
from neuron_mech.store import files
from neuron_mech.training.models import keras_weights


@pytest.fixture
def run(tmp_path) -> Path:
    """A run directory, as it is before anything is saved."""
    directory = tmp_path / "digits"
    with store.opened(directory, PRESETS["digits"]):
        (directory / "figures").mkdir()
        (directory / "trajectories").mkdir()
        store.write_dataset(directory / "train.nc", training())
    return directory


@pytest.fixture
def mine(tmp_path) -> Path:
    """A file of the user's, outside."""
    path = tmp_path / "mine.txt"
    path.write_text("mine")
    return path


def training(**attributes) -> xr.Dataset:
    return xr.Dataset(
        {"train_accuracy": ("epoch", [0.5]), "test_accuracy": ("epoch", [0.5])},
        {"epoch": [1]},
        {"preset": "digits", "seed": 0, **attributes},
    )


def called(monkeypatch, capsys, module, *arguments) -> tuple[int, str]:
    """(exit code, stderr) of a command."""
    monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        module.main()
    return stop.value.code, capsys.readouterr().err


# --- Writing ----------------------------------------------------------------------------------------------------------


def test_what_is_written_goes_through_no_link_and_under_no_name_that_can_be_known(tmp_path, mine):
    names = set()
    for name in (".report.part.html", ".claims.part.json"):
        (tmp_path / name).symlink_to(mine)
    for name in ("report.html", "report.html", "claims.json"):
        (path := tmp_path / name).unlink(missing_ok=True)
        path.symlink_to(mine)
        files.write(path, lambda made: (names.add(made.name), made.write_text("ours")))
        assert path.read_text() == "ours"
        assert not path.is_symlink()
    assert mine.read_text() == "mine"
    assert len(names) == 3
    before = os.umask(0o027)
    files.write_text(tmp_path / "a.txt", "±")
    os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert (tmp_path / "a.txt").read_bytes() == "±".encode()


def test_what_a_killed_process_left_is_removed(run):
    (left := run / "figures" / f".figure5.{'0f' * 8}.part.svg").touch()
    (kept := run / "figures" / ".figure5.part.svg").touch()
    with store.opened(run, PRESETS["digits"]):
        assert not left.exists()
        assert kept.exists()


@pytest.mark.parametrize(
    ("number", "advice"),
    [(28, "make room and run"), (13, "see that it may be written"), (5, "look at the disk and run")],
)
def test_advice_fits_the_error(tmp_path, monkeypatch, number, advice):
    def fails(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(RunError, match=rf"cannot write .*a.txt \({os.strerror(number)}.*intact; {advice}"):
        files.write_text(tmp_path / "a.txt", "a")
    assert not list(tmp_path.iterdir())


def test_a_file_with_another_name_is_not_changed_where_it_is(tmp_path, mine):
    os.link(mine, tmp_path / "close-dense1.npy")
    (tmp_path / "link.npy").symlink_to(mine)
    for name in ("close-dense1.npy", "link.npy"):
        with pytest.raises(OSError, match=r"another name|symbolic links"):
            files.change(tmp_path / name)


# --- Reading ----------------------------------------------------------------------------------------------------------

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


def external(file):
    file.create_dataset("a", (4,), "f4", external=[("/etc/hostname", 0, 16)])


def linked(file):
    file["a"] = h5py.ExternalLink("/etc/hostname", "a")


def virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "a", (4,))
    file.create_virtual_dataset("a", layout)


def absurd(file):
    file.create_dataset("a", (2**40,), "f4", chunks=(2**20,), compression="gzip")


def nested(file):
    file.create_dataset("layers/conv2d/vars/0", (2**20, 2**20), "f4", chunks=(2**10, 2**10))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (external, "in another file"),
        (linked, "is a link to elsewhere"),
        (virtual, "in another file"),
        (absurd, "claims to hold 4,398,046,511,104"),
        (nested, "claims to hold 4,398,046,511,104"),
    ],
)
def test_hdf5_that_leads_elsewhere_or_holds_the_absurd_is_refused_before_it_is_read(tmp_path, make, said):
    for name, read in (("train.nc", store.read_dataset), ("weights.h5", keras_weights.of_file)):
        with h5py.File(tmp_path / name, "w") as file:
            make(file)
        with pytest.raises(InputError, match=rf"{name} cannot be read .*{said}"):
            read(tmp_path / name)


def test_a_file_too_large_to_be_read_is_not_read(tmp_path):
    for name in ("a.nc", "a.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**42)  # takes no room
    with pytest.raises(InputError, match=r"a.nc cannot be read .*4,398,046,511,104 bytes"):
        store.read_dataset(tmp_path / "a.nc")
    with pytest.raises(OSError, match="4,398,046,511,104 bytes"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="too deeply"):
        files.read_json(tmp_path / "deep.json")


def test_text_that_moves_the_cursor_is_refused(tmp_path):
    store.write_dataset(tmp_path / "a.nc", training(label="dense1\x1b[2J"))
    with pytest.raises(InputError, match=r"text that does not print: dense1\\x1b\[2J"):
        store.read_dataset(tmp_path / "a.nc")
    assert harmless("a\n\x1b]0;b\x07\u202e✓ é") == r"a\n\x1b]0;b\x07\u202e✓ é"


@pytest.mark.parametrize("content", ["", "short", "garbled", "cut", "longer", "objects", "text"])
def test_an_array_is_read_only_where_its_size_is_what_it_claims(tmp_path, content):
    path = tmp_path / "a.npy"
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(path, values)
    np.testing.assert_array_equal(files.read_array(path), values)
    np.testing.assert_array_equal(files.read_array(path, mapped=True), values)
    whole = path.read_bytes()
    changed = {
        "": b"",
        "short": whole[:20],
        "garbled": whole.replace(b"(3, 4)", b"(3, (("),
        "cut": whole[:-4],
        "longer": whole + b"a",
        "objects": whole.replace(b"<f4", b"|O8"),
        "text": b"nothing of the kind" * 100,
    }[content]
    path.write_bytes(changed)
    for mapped in (False, True):
        with pytest.raises(ValueError, match=r"."):
            files.read_array(path, mapped)


def test_a_shape_that_is_larger_than_its_file_allocates_nothing(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 10**3)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ValueError, match="are needed for shape"):
        files.read_array(tmp_path / "a.npy")


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
