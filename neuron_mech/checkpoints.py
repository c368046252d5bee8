"""Saving and restoring a run's state: the only file that knows Orbax.

Orbax restores a flipped byte without an error, as other values. So a checksum of every array is saved beside them and
verified when they come back, and a checkpoint that does not verify is set aside for the one before.
"""

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from neuron_mech.errors import RunError

# Orbax announces every save at INFO and its own fallbacks as warnings; what a user must know, we say.
logging.getLogger("absl").setLevel(logging.ERROR)

KEEP = 2
"""Checkpoints kept: the newest, and the one to fall back to."""


class Restored(NamedTuple):
    """A verified state, its step, and one line for each newer checkpoint that did not verify."""

    state: PyTree
    step: int
    damaged: list[str]


class Checkpoints:
    """The checkpoints of one run, numbered by step. Use as a context manager.

    A save is complete when `save` returns: a process killed later, or during the next save, finds it again.
    """

    def __init__(self, directory: Path):
        self.directory = directory.absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=KEEP, enable_async_checkpointing=False),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Newest step on disk, verified or not."""
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree) -> None:
        """Save `state` (arrays and typed random keys, none of size zero) as this step.

        Raises RunError where it cannot be written, the full disk above all; earlier checkpoints stay.
        """
        arrays = _to_arrays(state)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays), checksums=ocp.args.JsonSave(_checksums(arrays))
                ),
            )
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax and TensorStore raise several kinds for one full disk
            for unfinished in self.directory.glob("*orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            free = shutil.disk_usage(self.directory).free / 1e6
            kept = f"the checkpoint of step {self.latest} is intact" if self.latest is not None else "none was saved yet"
            raise RunError(
                f"cannot write a checkpoint of {nbytes(state) / 1e6:.0f} MB to {self.directory} ({free:.0f} MB free): "
                f"{_reason(error)}; {kept}; make room and run the same command again"
            ) from error

    def restore(self, like: PyTree) -> Restored | None:
        """The newest state that verifies, in the structure of `like`; None where nothing was ever saved.

        A checkpoint that does not verify is moved to `checkpoints-damaged` beside. Raises RunError when none does.
        """
        damaged: list[str] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return Restored(self._restore(step, like), step, damaged)
            except Exception as error:  # a truncated file surfaces as any of a dozen types
                aside = self.directory.with_name(self.directory.name + "-damaged")
                damaged.append(f"checkpoint of step {step} does not verify ({_reason(error)}); moved to {aside}")
                aside.mkdir(exist_ok=True)
                shutil.rmtree(aside / str(step), ignore_errors=True)
                shutil.move(self.directory / str(step), aside)
                self._manager.reload()
        if damaged:
            raise RunError(f"{'; '.join(damaged)}; no older one is left: remove {self.directory.parent} to begin again")
        return None

    def _restore(self, step: int, like: PyTree) -> PyTree:
        target = _to_arrays(like)
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(target), checksums=ocp.args.JsonRestore()),
        )
        expected, actual = found.checksums, _checksums(found.state)
        if wrong := sorted(name for name in actual if actual[name] != expected.get(name)):
            raise ValueError(f"checksum of {', '.join(wrong[:3])} differs")
        return jax.tree.map(_like, found.state, like, is_leaf=lambda leaf: leaf is None)


def nbytes(state: PyTree) -> int:
    """Bytes of all arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(_to_arrays(state)))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_arrays(state: PyTree) -> PyTree:
    """Typed random keys as the integers they hold, which is what Orbax stores."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)


def _like(found: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(found) if _is_key(like) else found


def _checksums(arrays: PyTree) -> dict[str, str]:
    """SHA-256 over dtype, shape and bytes of every array, by its path in the tree."""
    sums = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        array = np.ascontiguousarray(leaf)
        head = f"{array.dtype}{array.shape}".encode()
        sums[jax.tree_util.keystr(path)] = hashlib.sha256(head + b"\0" + array.tobytes()).hexdigest()
    return sums


def _reason(error: BaseException) -> str:
    """The part of a long library error that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "No space left" in line or "checksum" in line]
    return (telling or lines or [type(error).__name__])[0][:200]
