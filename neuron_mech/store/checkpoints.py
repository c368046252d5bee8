"""Saving and restoring a run's state: the only file that uses Orbax, with `orbax_errors`.

Orbax restores a flipped byte without an error. So a checksum of every array is saved beside the arrays and verified
when they are restored; a checkpoint that does not verify is moved away, and the one before it is taken.

A checkpoint also holds the facts that identify its run (`identity`), and is not restored under others.

Process 0 saves and restores, and sends the other processes what it restored. Stored are host arrays, which do not
depend on the number of processes or devices.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from flax import serialization
from jaxtyping import PyTree

from neuron_mech.cluster import processes
from neuron_mech.errors import InputError, RunError
from neuron_mech.lazily import checkpoint as ocp
from neuron_mech.store import files, identity
from neuron_mech.store.orbax_errors import mute_abandoned_reads, of_the_machine, reason

# Orbax logs every save, and a traceback for each of its threads when one fails; we say what a user must know.
logging.set_verbosity(logging.FATAL)

KEEP = 2
"""Number of checkpoints kept: the newest, and one to fall back to."""

_OF = "of"
"""Key, beside those of the arrays' checksums, of the facts that identify the run and of their checksum."""


class Restored(NamedTuple):
    """A verified state, its step, and one line for each newer checkpoint that did not verify."""

    state: PyTree
    step: int
    damaged: list[str]


class Checkpoints:
    """The checkpoints of one run, numbered by step. Use as a context manager.

    A checkpoint is complete when `save` returns, and survives a process that is killed later or during the next save.
    `of` are the facts that identify the run (see `identity`), values that JSON can hold.
    """

    def __init__(self, directory: Path, of: Mapping[str, Any] | None = None):
        self.directory = directory.absolute()
        self.of = dict(of or {})
        if processes.first():
            self.directory.mkdir(parents=True, exist_ok=True)
            # Only process 0, so that Orbax waits for no other.
            alone = ocp.options.MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix="first")
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=KEEP,
                    enable_async_checkpointing=False,
                    create=False,
                    multiprocessing_options=alone,
                ),
            )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        if processes.first():
            self._manager.close()

    @property
    def latest(self) -> int | None:
        """The newest step on disk, verified or not; None in other processes than 0."""
        return self._manager.latest_step() if processes.first() else None

    @property
    def aside(self) -> Path:
        """Directory for checkpoints that do not verify."""
        return self.directory.with_name(self.directory.name + "-damaged")

    def save(self, step: int, state: PyTree) -> None:
        """Save `state` (arrays and typed random keys, none of size zero) as this step.

        Raises RunError where it cannot be written, the full disk above all; earlier checkpoints stay.
        """
        if not processes.first():
            return
        arrays = jax.device_get(_to_arrays(state))
        free = shutil.disk_usage(self.directory).free
        try:
            # Checked before, since Orbax leaves threads behind when the disk becomes full during a save.
            if free < nbytes(state):
                raise OSError("No space left on device")
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    checksums=ocp.args.JsonSave(checksums(arrays) | {_OF: [self.of, _checksum(self.of)]}),
                ),
            )
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax and TensorStore raise several kinds for one full disk
            kept = (
                f"the checkpoint of step {self.latest} is intact" if self.latest is not None else "none was saved yet"
            )
            raise RunError(
                f"cannot write a checkpoint of {nbytes(state) / 1e6:.1f} MB to {self.directory} ({free / 1e6:.1f} MB "
                f"free): {reason(error)}; {kept}; {files.advice(error)} and run the same command again"
            ) from error

    def restore(self, like: PyTree) -> Restored | None:
        """The newest state that verifies, in the structure of `like` (arrays or shapes); None where none was saved.

        A shape in `like` is restored as a host array. A checkpoint that does not verify is moved to
        `checkpoints-damaged`. Raises RunError where none verifies or one cannot be read because of the machine, and
        InputError where a checkpoint has other facts than `of`.
        """
        shapes = _to_arrays(like)
        arrays, step, damaged = (self._newest(shapes) if processes.first() else None) or (shapes, -1, [])
        if (step := int(processes.broadcast(lambda: str(step).encode()))) < 0:
            return None
        arrays = jax.tree.map(lambda leaf: processes.broadcast_array(lambda: leaf, leaf.shape, leaf.dtype), arrays)
        return Restored(_from_arrays(arrays, like), step, damaged)

    def _newest(self, like: dict[str, Any]) -> tuple[dict[str, Any], int, list[str]] | None:
        damaged: list[str] = []
        mute_abandoned_reads()
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._restore(step, like), step, damaged
            except InputError:
                raise
            except Exception as error:  # a truncated file surfaces as any of a dozen types
                if trouble := of_the_machine(error, self.directory / str(step)):
                    raise RunError(
                        f"{self.directory / str(step)} cannot be read ({trouble}): it may be whole, and is left as it "
                        "is; see to the disk or the memory and run the same command again"
                    ) from error
                damaged.append(f"checkpoint of step {step} does not verify ({reason(error)}); moved to {self.aside}")
                self.aside.mkdir(exist_ok=True)
                shutil.rmtree(self.aside / str(step), ignore_errors=True)
                shutil.move(self.directory / str(step), self.aside)
                self._manager.reload()
        if damaged:
            raise RunError(f"{'; '.join(damaged)}; no older one is left: remove {self.directory.parent} to begin again")
        return None

    def _restore(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        expected = self._manager.restore(step, args=ocp.args.Composite(checksums=ocp.args.JsonRestore())).checksums
        # The facts are checked first: another run's checkpoint is not damaged. Those of older versions have none.
        of, checksum = expected.get(_OF, [self.of, _checksum(self.of)])
        if checksum != _checksum(of):
            raise ValueError("checksum of what it belongs to differs")
        if changed := identity.changed(of, self.of):
            raise InputError(
                f"{self.directory / str(step)} is a checkpoint of something else (there / here): {'; '.join(changed)}: "
                "ask for what it belongs to, or name another directory"
            )
        target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        found = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))
        _verify(found.state, expected)
        return found.state


def look(directory: Path, part: Callable[[dict[str, Any]], dict[str, Any]]) -> Restored | None:
    """A part of the newest state in `directory` for which the part verifies, as nested dicts of host arrays.

    `part` selects it from the nested dict of everything saved. Nothing else is read, and nothing is moved or changed:
    the run may be in progress. Needs no device. None where nothing was saved. Raises RunError where none verifies.
    """
    saved = [path for path in directory.glob("*") if path.name.isdecimal()]
    damaged: list[str] = []
    for path in sorted(saved, key=lambda path: int(path.name), reverse=True):
        try:
            return Restored(_looked(path, part), int(path.name), damaged)
        except Exception as error:  # a truncated file surfaces as any of a dozen types
            mute_abandoned_reads()
            damaged.append(f"checkpoint of step {path.name} in {directory} does not verify ({reason(error)})")
    if damaged:
        raise RunError(f"{'; '.join(damaged)}; no older one is left")
    return None


def _looked(path: Path, part: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    reader = ocp.PyTreeCheckpointer()
    chosen = part(reader.metadata(path.absolute() / "state").item_metadata.tree)
    target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), chosen)
    as_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    asked = ocp.args.PyTreeRestore(item=target, restore_args=as_arrays, partial_restore=True)
    found = reader.restore(path.absolute() / "state", args=asked)
    _verify(found, ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(path.absolute() / "checksums"))
    return found


def _verify(found: dict[str, Any], expected: dict[str, str]) -> None:
    """Raise ValueError where an array does not have its checksum."""
    actual = checksums(found)
    if wrong := sorted(name for name in actual if actual[name] != expected.get(name)):
        raise ValueError(f"checksum of {', '.join(wrong[:3])} differs")


def nbytes(state: PyTree) -> int:
    """Size in bytes of all arrays, or of arrays of these shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(_to_arrays(state)))


def checksums(state: PyTree) -> dict[str, str]:
    """SHA-256 over dtype, shape and bytes of every array, by its path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(_to_arrays(state))
    return {jax.tree_util.keystr(path): identity.digest(leaf) for path, leaf in leaves}


def _checksum(of: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_arrays(state: PyTree) -> dict[str, Any]:
    """The state as nested dicts of arrays by field name, as Orbax stores it; typed random keys become integers."""
    plain = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)
    return serialization.to_state_dict(plain)


def _from_arrays(arrays: dict[str, Any], like: PyTree) -> PyTree:
    """The inverse of `_to_arrays`, in the structure of `like`; arrays are on the device where they are in `like`."""

    def placed(leaf: np.ndarray, old: Any) -> Any:
        if _is_key(old):
            return jax.random.wrap_key_data(jax.numpy.asarray(leaf))
        return jax.numpy.asarray(leaf) if isinstance(old, jax.Array) else leaf

    return serialization.from_state_dict(like, jax.tree.map(placed, arrays, serialization.to_state_dict(like)))
