"""Labelled arrays on disk: NetCDF results, and plain arrays that are filled where they lie."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from neuron_mech.cluster import processes
from neuron_mech.errors import InputError, first_line, harmless
from neuron_mech.lazily import h5py
from neuron_mech.lazily import xarray as xr
from neuron_mech.store import checksums, files


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
    checksums.write_result(path, lambda part: dataset.to_netcdf(part, engine="h5netcdf"))


def read_dataset(path: Path) -> xr.Dataset:
    """A result file, loaded and closed. Raises InputError where it is missing, damaged, or leads to other files.

    Of several processes, 0 reads it and tells the others.
    """

    def read() -> bytes:
        """What it holds, or after a mark why there is nothing: all processes come to the same end."""
        try:
            content = files.read(path)
        except OSError as error:
            return b"!" + str(error).encode()
        return b"=" + content if checksums.as_written(path, content) else b"!it is not what was written"

    try:
        content = processes.broadcast(read)
        if content[:1] == b"!":
            raise ValueError(content[1:].decode())
        content = content[1:]
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
    return processes.broadcast(lambda: str(path.exists()).encode()) == b"True"
