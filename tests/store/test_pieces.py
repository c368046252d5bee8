"""Files in pieces: no piece too large, all of them back to the byte, and what is wrong is named."""

import subprocess
import zipfile

import numpy as np
import pytest

from neuron_mech.errors import InputError, RunError
from neuron_mech.store import pieces

LIMIT = 1_000_000


@pytest.fixture
def files() -> dict[str, bytes]:
    """Three that fit a piece, one that does not, one that is empty."""
    rng = np.random.default_rng(0)
    return {
        "config.json": b"{}",
        "figures/figure1.png": rng.bytes(700_000),
        "figures/figure1.svg": b"<path/>" * 100_000,
        "learning_dynamics.nc": rng.bytes(2_500_000),
        "empty.txt": b"",
    }


@pytest.fixture
def packed(files, tmp_path):
    """The pieces of them, the first first."""
    return pieces.pack(files, tmp_path / "out" / "run.zip", LIMIT)


def test_no_piece_is_larger_than_the_limit_and_all_comes_back(files, packed, tmp_path):
    assert len(packed) == 4
    assert set(packed) == set((tmp_path / "out").iterdir())
    assert all(0 < path.stat().st_size <= LIMIT for path in packed)
    assert sorted(pieces.unpack(packed[0], tmp_path / "back")) == sorted(files)
    back = {
        path.relative_to(tmp_path / "back").as_posix(): path.read_bytes() for path in (tmp_path / "back").rglob("*.*")
    }
    assert back == files


def test_parts_that_cannot_be_deflated_still_fit_to_the_byte(tmp_path):
    """The largest part there can be, of bytes without any order."""
    data = {"a": np.random.default_rng(1).bytes(3 * LIMIT)}
    sizes = [path.stat().st_size for path in pieces.pack(data, tmp_path / "run.zip", LIMIT)]
    assert max(sizes) <= LIMIT
    assert max(sizes) > 0.99 * LIMIT


def test_the_index_of_many_files_fits_beside_them(tmp_path):
    """As many files as fill the first piece, whose index then takes a tenth of it."""
    rng = np.random.default_rng(3)
    data = {f"figures/a_figure_of_a_rather_long_name_{index:04}.png": rng.bytes(1000) for index in range(1500)}
    first, *others = pieces.pack(data, tmp_path / "run.zip", LIMIT)
    assert others
    assert max(path.stat().st_size for path in (first, *others)) <= LIMIT
    with zipfile.ZipFile(first) as archive:
        assert archive.getinfo(pieces.INDEX).compress_size > LIMIT / 20


def test_each_piece_is_a_zip_file_of_its_own_for_any_tool(files, packed, tmp_path):
    for path in packed:
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            archive.extractall(tmp_path / "by-hand")
    joined = subprocess.run(
        "cat learning_dynamics.nc.part*", shell=True, cwd=tmp_path / "by-hand", capture_output=True, check=True
    )
    assert joined.stdout == files["learning_dynamics.nc"]
    assert (tmp_path / "by-hand" / "figures" / "figure1.png").read_bytes() == files["figures/figure1.png"]


def test_packed_again_the_same_bytes_and_nothing_of_before(files, packed, tmp_path):
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in packed}
    (tmp_path / "out" / "run.other.zip").write_bytes(b"not ours")
    pieces.pack(files, packed[0], LIMIT)
    assert {path: path.read_bytes() for path in packed} == {path: data for path, (data, _) in before.items()}
    changed = pieces.pack(files | {"learning_dynamics.nc": b"short"}, packed[0], LIMIT)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in changed} | {"run.other.zip"}


def test_stopped_while_packing_the_set_before_is_whole(files, packed, tmp_path, monkeypatch):
    """The first piece, which names the others, is written last."""

    def fails(path, save):
        if path == packed[0]:
            raise RunError("cannot write: killed here")
        save(path)

    monkeypatch.setattr(pieces.files, "write", fails)
    with pytest.raises(RunError, match="killed here"):
        pieces.pack(files | {"learning_dynamics.nc": np.random.default_rng(2).bytes(2_000_000)}, packed[0], LIMIT)
    pieces.unpack(packed[0], tmp_path / "back")
    assert (tmp_path / "back" / "learning_dynamics.nc").read_bytes() == files["learning_dynamics.nc"]


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_a_damaged_piece_is_refused_by_name(packed, tmp_path, which):
    content = bytearray(packed[which].read_bytes())
    content[len(content) // 2] ^= 1
    packed[which].write_bytes(content)
    with pytest.raises(InputError, match=rf"{packed[which].name}.* is damaged.*fetch it again"):
        pieces.unpack(packed[0], tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not list(tmp_path.glob(".back*"))


def test_a_missing_piece_is_said(packed, tmp_path):
    packed[2].unlink()
    with pytest.raises(InputError, match=rf"1 of 4 pieces are missing beside .*run.zip: fetch {packed[2].name}$"):
        pieces.unpack(packed[0], tmp_path / "back")
    packed[0].unlink()
    with pytest.raises(InputError, match=r"run.zip is not there"):
        pieces.unpack(packed[0], tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_what_is_there_is_not_overwritten(packed, tmp_path):
    (tmp_path / "back").mkdir()
    pieces.unpack(packed[0], tmp_path / "back")  # an empty one will do
    with pytest.raises(InputError, match="is there already: name a new directory"):
        pieces.unpack(packed[0], tmp_path / "back")


def test_nothing_is_unpacked_outside_the_directory(packed, tmp_path):
    with zipfile.ZipFile(packed[0], "w") as archive:
        archive.writestr(pieces.INDEX, '{"pieces": {}, "files": {"../x": {"bytes": 1, "sha256": "", "parts": 1}}}')
        archive.writestr("../x", "x")
    with pytest.raises(InputError, match=r"it names '\.\./x'"):
        pieces.unpack(packed[0], tmp_path / "back")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [
        ("run.tar", LIMIT, "is no name for an export"),
        ("a run.zip", LIMIT, "is no name for an export: give one of letters, digits"),
        ("run.zip", LIMIT - 1, "a piece of 0.999999 MB is too small: give at least 1 MB"),
        ("taken/run.zip", LIMIT, r"cannot be written \(.*\): name another file"),
    ],
)
def test_where_pieces_cannot_be_is_said_before_anything_is_written(tmp_path, name, limit, message):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=message):
        pieces.pack({"a": b"a"}, tmp_path / name, limit)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
