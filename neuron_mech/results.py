"""A run's directory: who may write it, which config it belongs to, and files that are whole or absent.

runs/PRESET/config.json  identity.json  checkpoints/  train.nc  gradient_signs.nc  figures/*.png, *.svg
"""

import dataclasses
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from neuron_mech import identity, processes
from neuron_mech.errors import InputError, RunError, first_line
from neuron_mech.figures import style
from neuron_mech.presets import Config, Data, Model, Record, Train, Watch, differences


@contextmanager
def held(directory: Path) -> Iterator[Path]:
    """Hold the directory against other processes; create it where it is new.

    Raises InputError where it cannot be written, or another process holds it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".writable"
        probe.touch()
        probe.unlink()
        # The kernel drops the lock with the process, however it dies.
        lock = filelock.FileLock(directory / ".lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(
            f"--run-dir {directory} is in use by another process: wait for it, or name another directory"
        ) from None
    except OSError as error:
        raise InputError(
            f"--run-dir {directory} cannot be written ({error.strerror}): name another directory"
        ) from None
    try:
        yield directory
    finally:
        lock.release()


@contextmanager
def opened(directory: Path, config: Config) -> Iterator[Path]:
    """Hold the directory for this run and this config. Of several processes, 0 does.

    Raises InputError where it cannot be held, or belongs to another config. A request that is refused (an InputError)
    before anything was written beside what says which run it is leaves nothing, so that the one that was meant can have
    the directory.
    """
    if not processes.first():
        yield directory
        return
    with held(directory):
        described = directory / "config.json"
        fresh = not described.exists()
        if fresh:
            text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
            write(described, lambda part: part.write_text(text))
        elif changed := differences(read_config(directory), config):
            raise InputError(
                f"--run-dir {directory} holds a run of another configuration (there / here): {'; '.join(changed)}: "
                "name another directory, or set these fields as they are there"
            )
        before = set(directory.iterdir())
        try:
            yield directory
        except InputError:
            bound = directory / "identity.json"
            if fresh and set(directory.iterdir()) - {bound} == before:
                described.unlink()
                bound.unlink(missing_ok=True)
            raise


def read_config(directory: Path) -> Config:
    """The config of the run in `directory`. Raises InputError where there is none that can be read."""
    path = directory / "config.json"
    try:
        tree = json.loads(path.read_text())
        record = tree["record"]
        record |= {k: tuple(record[k]) for k in ("sites", "site_samples", "compare_objectives") if k in record}
        return Config(
            tree["preset"],
            Data(**tree["data"]),
            Model(**tree["model"]),
            Train(**tree["train"]),
            Record(**record),
            Watch(**tree["watch"] | {"named": tuple(tree["watch"]["named"])}),
        )
    except FileNotFoundError:
        raise InputError(
            f"{directory} holds no run (no config.json): run `python -m experiments.train` first"
        ) from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a config ({error}): restore it, or name another directory"
        ) from None


def bind(directory: Path, facts: Mapping[str, Any]) -> None:
    """Store what the run in `directory` is (see `identity`), or hold it against what is stored there.

    Every process holds its own facts, those of the data that it reads above all, against process 0's. Raises
    InputError, naming the facts that differ.
    """
    path = directory / "identity.json"

    def stored() -> bytes:
        if not path.exists():
            text = json.dumps(facts, indent=2) + "\n"
            write(path, lambda part: part.write_text(text))
        return path.read_bytes()

    changed = identity.changed(_parsed(path, processes.told(stored)), facts)
    if changed:
        raise InputError(
            f"--run-dir {directory} holds a run on other data or under other settings (there / here): "
            f"{'; '.join(changed)}: name the --data-dir that it began with, set the rest as it is there, or name "
            "another --run-dir"
        )


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Let `save` write a file beside `path`, then put it in place in one motion: readers see it whole or not at all.

    Of several processes, 0 does. Raises RunError where it cannot be written; what stood at `path` stays.
    """
    if not processes.first():
        return
    # The suffix stays last, since matplotlib and others choose the format by it.
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 1e6 if path.parent.exists() else 0
        raise RunError(
            f"cannot write {path} ({error.strerror or error}; {free:.0f} MB free): what was there before is intact; "
            "make room and run the same command again"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def seed_directories(directory: Path) -> list[Path]:
    """The run's directory, and those of its repetitions with other seeds, in the order of their seeds.

    Raises InputError for one that holds another run than this one with its seed.
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
    """What is known of which run a directory holds: its config, and what `bind` stored."""
    path = directory / "identity.json"
    stored = _parsed(path, path.read_bytes()) if path.exists() else {}
    return identity.of_config(read_config(directory)) | stored


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    """An object of JSON. Raises InputError where it is none."""
    try:
        found = json.loads(content)
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        raise InputError(
            f"{path} cannot be read ({first_line(error)}): restore it, or name another --run-dir"
        ) from None
    return found


@contextmanager
def arrays(shapes: Mapping[Path, tuple[tuple[int, ...], np.dtype]]) -> Iterator[dict[Path, np.memmap]]:
    """New .npy files of these shapes and types, to be filled on disk; put in place together when the block ends well.

    Raises InputError where the disk has no room for them.
    """
    need = sum(math.prod(shape) * kind.itemsize for shape, kind in shapes.values())
    parts = {path: path.with_name(f".{path.stem}.part.npy") for path in shapes}
    try:
        for path in shapes:
            path.parent.mkdir(parents=True, exist_ok=True)
        free = min((shutil.disk_usage(path.parent).free for path in shapes), default=0)
        if need > free:
            raise InputError(
                f"{next(iter(shapes)).parent} has {free / 1e9:.1f} GB free, and {need / 1e9:.1f} GB are to be written: "
                "make room, or name another --run-dir"
            )
        # Each is cut to its size beforehand, and unwritten pages take no memory.
        open_file = np.lib.format.open_memmap
        written = {p: open_file(parts[p], mode="w+", dtype=kind, shape=shape) for p, (shape, kind) in shapes.items()}
        yield written
        for path in shapes:
            written[path].flush()
            parts[path].replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def about(units: str, description: str) -> dict[str, str]:
    """The attributes that every variable of a result file has."""
    return {"units": units, "description": description}


def write_dataset(path: Path, dataset: xr.Dataset) -> None:
    """Write a labelled dataset as NetCDF-4. The same values give the same bytes: no time or host is stored."""
    write(path, lambda part: dataset.to_netcdf(part, engine="h5netcdf"))


def read_dataset(path: Path) -> xr.Dataset:
    """A result file, loaded and closed. Raises InputError where it is missing or damaged.

    Of several processes, 0 reads it and tells the others.
    """
    try:
        content = io.BytesIO(processes.told(path.read_bytes))
        with xr.open_dataset(content, engine="h5netcdf") as dataset:
            return dataset.load()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): run its experiment again") from None


def exists(path: Path) -> bool:
    """Whether there is such a file, for process 0 and so for all."""
    return processes.told(lambda: str(path.exists()).encode()) == b"True"


def write_figure(directory: Path, name: str, figure: Figure) -> list[Path]:
    """Write a figure as `figures/NAME.png` and `.svg` in a run's directory; the same figure gives the same bytes."""
    paths = [directory / "figures" / f"{name}{suffix}" for suffix in (".png", ".svg")]
    if processes.first():
        with style():
            figure.draw_without_rendering()  # a second layout pass, for tick labels that the first one changed
            for path in paths:
                metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
                write(path, partial(figure.savefig, metadata=metadata))
    return paths
