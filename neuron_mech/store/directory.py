"""A run's directory: its lock, its config, and the facts that must not change."""

import dataclasses
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from neuron_mech.cluster import processes
from neuron_mech.config import PRESETS, Config, Data, Model, Record, Train, Watch, differences
from neuron_mech.errors import InputError, first_line
from neuron_mech.store import files, identity


@contextmanager
def held(directory: Path) -> Iterator[Path]:
    """Lock the directory against other processes; create it where it does not exist.

    Raises InputError where it cannot be written, holds a link, or is locked by another process.
    """
    holder = directory / ".holder"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        files.check(directory)
        files.part(holder).unlink()
        # The kernel releases the lock when the process dies; on a file system without locks the file stays.
        lock = filelock.FileLock(directory / ".lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(
            f"--run-dir {directory} is in use by another process{_holder(holder)}: wait for it, or name another "
            f"directory; if it is gone, remove {directory / '.lock'}"
        ) from None
    except OSError as error:
        raise InputError(
            f"--run-dir {directory} cannot be written ({error.strerror or error}): name another directory"
        ) from None
    try:
        files.remove_parts(directory)
        files.write_text(holder, f"{os.getpid()} on {platform.node()}\n")
        yield directory
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    """The process that holds a directory, as it noted there."""
    try:
        return f" ({files.read_text(path).strip()})"
    except (OSError, ValueError):
        return ""


@contextmanager
def opened(directory: Path, config: Config) -> Iterator[Path]:
    """Lock the directory for a run of this config, and write config.json. Only process 0 does so.

    `runs.run` and the result files expect it: hold it open as long as anything is written. If the block fails before a
    checkpoint was saved, the new files are removed, so that a corrected command can use the directory.

    Arguments:
        directory: the run's directory, created with its parents where it does not exist.
        config: the run's; where the directory has a config.json, it must be the same in every field.

    Yields:
        `directory`. When the block ends, the lock is released; it is released too when the process dies.

    Raises InputError where the directory cannot be written, holds a link, is locked by another process, or belongs to a
    run of another config.

    >>> import pathlib, tempfile
    >>> from neuron_mech import store
    >>> from neuron_mech.config import PRESETS
    >>> with tempfile.TemporaryDirectory() as name:
    ...     with store.opened(pathlib.Path(name, "run"), PRESETS["digits"]) as directory:
    ...         store.read_config(directory) == PRESETS["digits"]
    True
    """
    if not processes.first():
        yield directory
        return
    with held(directory):
        described = directory / "config.json"
        before = set(directory.iterdir())
        fresh = described not in before
        if fresh:
            files.write_text(described, json.dumps(dataclasses.asdict(config), indent=2) + "\n")
        elif changed := differences(read_config(directory), config):
            raise InputError(
                f"--run-dir {directory} holds a run of another configuration (there / here): {'; '.join(changed)}: "
                "name another directory, or set these fields as they are there"
            )
        try:
            yield directory
        except BaseException as error:
            # With checkpoints that were there before, the directory stays as it is, unless the config was refused.
            if fresh and (isinstance(error, InputError) or directory / "checkpoints" not in before):
                _vacate(directory, before)
            raise


def _vacate(directory: Path, before: set[Path]) -> None:
    """Remove the new files of a run that failed, unless it saved a checkpoint."""
    made = set(directory.iterdir()) - before
    saved = directory / "checkpoints" in made and any(p.name.isdecimal() for p in (directory / "checkpoints").glob("*"))
    if not saved and all(path.suffix == ".json" or path.name in ("checkpoints", "trajectories") for path in made):
        for path in made:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_config(directory: Path) -> Config:
    """The config of the run in `directory`.

    Raises InputError where there is none or it cannot be read, for an unknown preset, and as `files.check` does.
    """
    files.check(directory)
    path = directory / "config.json"
    try:
        tree = files.read_json(path)
        if tree["preset"] not in PRESETS:
            raise ValueError(f"preset is {tree['preset']!r}, which does not exist")
        record = tree["record"]
        record |= {k: tuple(record[k]) for k in ("sites", "site_samples", "compare_objectives") if k in record}
        watch = tree["watch"] | {"named": tuple(tree["watch"]["named"])}
        sections = (Data(**tree["data"]), Model(**tree["model"]), Train(**tree["train"]))
        return Config(tree["preset"], *sections, Record(**record), Watch(**watch))
    except FileNotFoundError:
        raise InputError(
            f"{directory} holds no run (no config.json): run `python -m experiments.train` first"
        ) from None
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a config ({first_line(error)}): restore it, or name another directory"
        ) from None


def bind(directory: Path, facts: Mapping[str, Any]) -> None:
    """Store the facts of the run in `directory` (see `identity`), or compare them with those that are stored there.

    Every process compares its own facts, such as its copy of the data, with process 0's. Raises InputError that names
    the facts that differ.
    """
    path = directory / "identity.json"

    def stored() -> bytes:
        if not path.exists():
            files.write_text(path, json.dumps(facts, indent=2) + "\n")
        return files.read(path, files.LARGEST_TEXT)

    changed = identity.changed(_parsed(path, processes.broadcast(stored)), facts)
    if changed:
        raise InputError(
            f"--run-dir {directory} holds a run on other data or under other settings (there / here): "
            f"{'; '.join(changed)}: name the --data-dir that it began with, set the rest as it is there, or name "
            "another --run-dir"
        )


def seed_directories(directory: Path) -> list[Path]:
    """The run's directory, and those of its repetitions with other seeds, in the order of their seeds.

    Raises InputError for a directory seedN that does not hold this run with seed N.
    """
    others = [path for path in directory.glob("seed*") if path.is_dir() and path.name[4:].isdecimal()]
    for path in others:
        if not (path / "config.json").exists() and not any(path.glob("*.nc")):
            continue  # nothing in it counts
        there, here = _facts(path), _facts(directory) | {"train.seed": int(path.name[4:])}
        if changed := identity.changed({name: there[name] for name in there if name in here}, here):
            raise InputError(
                f"{path} holds no repetition of the run in {directory} (there / expected): {'; '.join(changed)}: move "
                "it elsewhere"
            )
    return [directory, *sorted(others, key=lambda path: int(path.name[4:]))]


def _facts(directory: Path) -> dict[str, Any]:
    """The facts of the run in a directory: its config, and those that `bind` stored."""
    path = directory / "identity.json"
    stored = _parsed(path, path.read_bytes()) if path.exists() else {}
    return identity.of_config(read_config(directory)) | stored


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    """The JSON object in `content`. Raises InputError for anything else."""
    try:
        found = json.loads(content)
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        raise InputError(
            f"{path} cannot be read ({first_line(error)}): restore it, or name another --run-dir"
        ) from None
    return found
