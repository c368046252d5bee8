"""Files are written whole or not at all, through no link, and nothing absurd is begun when one is read."""

import os
import stat

import h5py
import numpy as np
import pytest

from neuron_mech import store
from neuron_mech.config import PRESETS
from neuron_mech.errors import InputError, RunError, harmless
from neuron_mech.store import files
from neuron_mech.training.models import keras_weights
from run_directories import training

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
