"""A run's directory: who may write it, which config it belongs to, and files that are whole or absent.

runs/PRESET/config.json  checkpoints/  train.nc  gradient_signs.nc  figures/*.png, *.svg
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import filelock
import numpy as np

from neuron_mech import figures, files, processes
from neuron_mech.errors import InputError, first_line, harmless
from neuron_mech.lazily import h5py
from neuron_mech.lazily import xarray as xr
from neuron_mech.presets import PRESETS, Config, Data, Model, Record, Train, Watch, differences


@contextmanager
def held(directory: Path) -> Iterator[Path]:
    """Hold the directory against other processes; create it where it is new.

    Raises InputError where it cannot be written, holds a link, or is held by another process.
    """
    holder = directory / ".holder"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        files.check(directory)
        files.part(holder).unlink()
        # The kernel drops the lock with the process, however it dies; a file system without locks does not.
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
    """Who holds a directory, as it said."""
    try:
        return f" ({files.read_text(path).strip()})"
    except (OSError, ValueError):
        return ""


@contextmanager
def opened(directory: Path, config: Config) -> Iterator[Path]:
    """Hold the directory for this run and this config. Of several processes, 0 does.

    Raises InputError where it cannot be held, or belongs to another config. A request that is refused, or fails, before
    anything was saved that it could go on from leaves nothing, so that the one that was meant can have the directory.
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
        except BaseException:
            if fresh:
                _vacate(directory, before)
            raise


def _vacate(directory: Path, before: set[Path]) -> None:
    """Remove what a run that came to nothing has left, unless there is something to go on from."""
    made = set(directory.iterdir()) - before
    saved = any(path.name.isdecimal() for path in (directory / "checkpoints").glob("*"))
    if not saved and all(path.suffix == ".json" or path.name in ("checkpoints", "trajectories") for path in made):
        for path in made:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_config(directory: Path) -> Config:
    """The config of the run in `directory`.

    Raises InputError where there is none that can be read, for a preset that does not exist, and as `files.check` does.
    """
    files.check(directory)
    path = directory / "config.json"
    try:
        tree = files.read_json(path)
        if tree["preset"] not in PRESETS:
            raise ValueError(f"preset is {tree['preset']!r}, which does not exist")
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
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a config ({first_line(error)}): restore it, or name another directory"
        ) from None


def seed_directories(directory: Path) -> list[Path]:
    """The run's directory, and those of its repetitions with other seeds, in the order of their seeds."""
    others = (path for path in directory.glob("seed*") if path.is_dir() and path.name[4:].isdecimal())
    return [directory, *sorted(others, key=lambda path: int(path.name[4:]))]


@contextmanager
def arrays(shapes: Mapping[Path, tuple[tuple[int, ...], np.dtype]]) -> Iterator[dict[Path, np.memmap]]:
    """New .npy files of these shapes and types, to be filled on disk; put in place together when the block ends well.

    Raises InputError where the disk has no room for them, RunError where they cannot be written.
    """
    need = sum(math.prod(shape) * kind.itemsize for shape, kind in shapes.values())
    parts: dict[Path, Path] = {}
    try:
        for path in shapes:
            with files.writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                parts[path] = files.part(path)
        free = min((shutil.disk_usage(path.parent).free for path in shapes), default=0)
        if need > free:
            raise InputError(
                f"{next(iter(shapes)).parent} has {free / 1e9:.1f} GB free, and {need / 1e9:.1f} GB are to be written: "
                "make room, or name another --run-dir"
            )
        # Each is cut to its size beforehand, and unwritten pages take no memory.
        open_file = np.lib.format.open_memmap
        written = {}
        for path, (shape, kind) in shapes.items():
            with files.writing(path):
                written[path] = open_file(parts[path], mode="w+", dtype=kind, shape=shape)
        yield written
        for path in shapes:
            with files.writing(path):
                written[path].flush()
                parts[path].replace(path)
    finally:
        for made in parts.values():
            made.unlink(missing_ok=True)


def about(units: str, description: str) -> dict[str, str]:
    """The attributes that every variable of a result file has."""
    return {"units": units, "description": description}


def write_dataset(path: Path, dataset: xr.Dataset) -> None:
    """Write a labelled dataset as NetCDF-4. The same values give the same bytes: no time or host is stored."""
    files.write(path, lambda made: dataset.to_netcdf(made, engine="h5netcdf"))


def read_dataset(path: Path) -> xr.Dataset:
    """A result file, loaded and closed. Raises InputError where it is missing, damaged, or leads to other files.

    Of several processes, 0 reads it and tells the others.
    """
    try:
        content = processes.told(partial(files.read, path))
        with h5py.File(io.BytesIO(content)) as file:
            files.check_hdf5(file, len(content))
        with xr.open_dataset(io.BytesIO(content), engine="h5netcdf") as dataset:
            found = dataset.load()
        if unprinted := [text for text in _texts(found) if not text.isprintable()]:
            raise ValueError(f"it holds text that does not print: {harmless(unprinted[0])}")
        return found
    except Exception as error:  # a damaged file surfaces as any of a dozen types
        raise InputError(
            f"{path} cannot be read ({first_line(error)}): remove it, and run its experiment again"
        ) from None


def _texts(dataset: xr.Dataset) -> Iterator[str]:
    """All names, attributes and values of a dataset that are text."""
    for attributes in (dataset.attrs, *(variable.attrs for variable in dataset.variables.values())):
        yield from (str(part) for pair in attributes.items() for part in pair)
    for name, variable in dataset.variables.items():
        yield from map(str, (name, *variable.dims))
        yield from map(str, variable.values.flat if variable.dtype.kind in "OSU" else ())


def exists(path: Path) -> bool:
    """Whether there is such a file, for process 0 and so for all."""
    return processes.told(lambda: str(path.exists()).encode()) == b"True"


def write_figure(directory: Path, name: str, figure: figures.Figure) -> list[Path]:
    """Write a figure as `figures/NAME.png` and `.svg` in a run's directory; the same figure gives the same bytes."""
    paths = [directory / "figures" / f"{name}{suffix}" for suffix in (".png", ".svg")]
    if processes.first():
        with figures.style():
            figure.draw_without_rendering()  # a second layout pass, for tick labels that the first one changed
            for path in paths:
                metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
                files.write(path, partial(figure.savefig, metadata=metadata))
    return paths
