"""Checkpoints that come back whole or are set aside."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuron_mech.errors import RunError
from neuron_mech.store.checkpoints import Checkpoints


def state(value: int) -> dict:
    rng = np.random.default_rng(value)
    return {
        "counts": jnp.asarray(rng.integers(0, 100, (300, 64)), jnp.int16),
        "nested": {"loss": rng.normal(size=50), "step": jnp.asarray(value)},
        "key": jax.random.key(value),
        "empty": {},
    }


def same(one, other) -> bool:
    def plain(tree):
        return [
            np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
            for x in jax.tree.leaves(tree)
        ]

    return all((a == b).all() and a.dtype == b.dtype for a, b in zip(plain(one), plain(other), strict=True))


def saved(directory: Path, *values: int) -> None:
    with Checkpoints(directory) as saves:
        for value in values:
            saves.save(value, state(value))


def restored(directory: Path):
    with Checkpoints(directory) as saves:
        return saves.restore(state(0))


def largest_file(directory: Path) -> Path:
    return max((f for f in directory.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def test_a_state_comes_back_bit_for_bit(tmp_path):
    assert restored(tmp_path / "c") is None
    saved(tmp_path / "c", 1, 2, 3)
    back = restored(tmp_path / "c")
    assert back.step == 3
    assert back.damaged == []
    assert same(back.state, state(3))
    assert jax.random.uniform(back.state["key"]) == jax.random.uniform(jax.random.key(3))
    assert sorted(int(d.name) for d in (tmp_path / "c").iterdir()) == [2, 3]


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, Path.unlink])
def test_a_damaged_newest_checkpoint_is_set_aside_for_the_one_before(tmp_path, damage):
    saved(tmp_path / "c", 1, 2)
    damage(largest_file(tmp_path / "c" / "2" / "state"))
    back = restored(tmp_path / "c")
    assert back.step == 1
    assert same(back.state, state(1))
    assert "step 2 does not verify" in back.damaged[0]
    assert (tmp_path / "c-damaged" / "2").is_dir()
    # The step can be reached, and saved, again.
    saved(tmp_path / "c", 2)
    assert same(restored(tmp_path / "c").state, state(2))


def test_values_that_orbax_restores_without_complaint_are_caught_by_their_checksum(tmp_path):
    saved(tmp_path / "c", 1, 2)
    shutil.copytree(tmp_path / "c" / "1" / "state", tmp_path / "c" / "2" / "state", dirs_exist_ok=True)
    checksums = next((tmp_path / "c" / "2" / "checksums").glob("metadata"))
    assert "sha" not in checksums.read_text()  # sums alone, by path
    shutil.rmtree(tmp_path / "c" / "2" / "state")
    shutil.copytree(tmp_path / "c" / "1" / "state", tmp_path / "c" / "2" / "state")
    back = restored(tmp_path / "c")
    assert back.step == 1
    assert "checksum" in back.damaged[0]


def test_when_none_verifies_the_run_is_not_quietly_begun_again(tmp_path):
    saved(tmp_path / "c", 1)
    truncate(largest_file(tmp_path / "c" / "1" / "state"))
    with pytest.raises(RunError, match=r"step 1 does not verify.*remove .* to begin again"):
        restored(tmp_path / "c")


def through_nothing(path: Path) -> None:
    """Reading this process's memory from its beginning is an I/O error, as that of a bad disk is."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


@pytest.mark.parametrize("name", ["ocdbt.process_0/d/*", "_METADATA", "manifest.ocdbt"])
def test_what_cannot_be_read_is_not_set_aside(tmp_path, name):
    saved(tmp_path / "c", 1, 2)
    file = max((tmp_path / "c" / "2" / "state").glob(name), key=lambda f: f.stat().st_size)
    whole = file.read_bytes()
    through_nothing(file)
    with pytest.raises(RunError, match=r"c/2 cannot be read \(.*Input/output error\): it may be whole, and is left"):
        restored(tmp_path / "c")
    assert not (tmp_path / "c-damaged").exists()
    file.unlink()
    file.write_bytes(whole)
    assert same(restored(tmp_path / "c").state, state(2))


@pytest.mark.parametrize(
    "error", [MemoryError(), ValueError("RESOURCE_EXHAUSTED: Out of memory"), OSError(24, "Too many")]
)
def test_nor_where_the_machine_is_at_its_limits(tmp_path, monkeypatch, error):
    saved(tmp_path / "c", 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_restore", lambda *_: (_ for _ in ()).throw(error))
        with pytest.raises(RunError, match="cannot be read"):
            restored(tmp_path / "c")
    assert same(restored(tmp_path / "c").state, state(2))


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root, and a system that allows it")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_full_disk_is_said_and_what_was_saved_stays(small_disk, monkeypatch, foreseen):
    with Checkpoints(small_disk / "c") as saves:
        saves.save(1, state(1))
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 20_000))
        with monkeypatch.context() as patch:
            if not foreseen:
                patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
            with pytest.raises(RunError, match=r"cannot write a checkpoint.*MB free.*No space left.*step 1 is intact"):
                saves.save(2, state(2))
        filler.unlink()
    assert same(restored(small_disk / "c").state, state(1))
    saved(small_disk / "c", 2)  # as the next process would
    assert same(restored(small_disk / "c").state, state(2))
