"""Labelled arrays on disk: NetCDF results, and plain arrays that are filled on disk.

Values of single neurons have one dimension `neuron` for the neurons of all sites in turn. The coordinates `neuron_site`
and `neuron_index` identify each neuron, and select it: `neuron_constancy.sel(neuron_site="dense2", neuron_index=17)`.
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from neuron_mech.cluster import processes
from neuron_mech.errors import InputError, first_line, harmless
from neuron_mech.lazily import h5py
from neuron_mech.lazily import xarray as xr
from neuron_mech.store import checksums, files
from neuron_mech.store.directory import seed_directories

FORMAT = 2
"""Version of the result files' layout: their attribute `format`. Other versions, and files without one, are refused."""


@contextmanager
def arrays(shapes: Mapping[Path, tuple[tuple[int, ...], np.dtype]]) -> Iterator[dict[Path, np.memmap]]:
    """New .npy files of these shapes and types, as memory maps to be filled; moved into place when the block ends well.

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
    """The attributes of a variable in a result file."""
    return {"units": units, "description": description}


def variable(
    dims: str | Sequence[str], values: Any, description: str, units: str = "1"
) -> tuple[Sequence[str], Any, dict[str, str]]:
    """A variable of a dataset: its values along `dims` (names, also in one text: "site epoch"), and its attributes."""
    return dims.split() if isinstance(dims, str) else dims, values, about(units, description)


def of_site(site: str, neurons: Sequence[int] | np.ndarray, variables: Mapping, dim: str = "neuron") -> xr.Dataset:
    """Variables over the neurons of one site, along `dim`; `neurons` are the neurons' indices within the site."""
    coords = {f"{dim}_site": (dim, np.full(len(neurons), site, object)), f"{dim}_index": (dim, np.asarray(neurons))}
    return xr.Dataset(variables, coords)


def stacked(parts: Sequence[xr.Dataset], dim: str = "neuron") -> xr.Dataset:
    """Datasets of `of_site` of several sites joined along `dim`; its neurons are selected by site and index."""
    return selectable(xr.concat(parts, dim, combine_attrs="override"))


def selectable(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with an index over (site, index) for every dimension of neurons: `.sel(neuron_site="dense2")`."""
    for dim in set(dataset.dims) - set(dataset.indexes):
        if {f"{dim}_site", f"{dim}_index"} <= set(dataset.coords):
            dataset = dataset.set_xindex([f"{dim}_site", f"{dim}_index"])
    return dataset


def write_dataset(path: Path, dataset: xr.Dataset) -> None:
    """Write a labelled dataset as a NetCDF-4 result file, whole or not at all. The same values give the same bytes.

    Arguments:
        path: the file, replaced where it exists. In a run's directory its checksum is noted in checksums.json.
        dataset: with dimensions of neurons as `of_site` and `stacked` make them, or with none. Attributes are to be
            text or numbers; the attribute `format` becomes FORMAT.

    Only process 0 writes. Raises RunError where it cannot, as on a full disk; the old file then stays.

    >>> import pathlib, tempfile
    >>> from neuron_mech import store
    >>> values = {"mean": store.variable("neuron", [0.5, 2.0], "mean pre-activation")}
    >>> dataset = store.stacked([store.of_site("dense1", [3, 7], values)])
    >>> with tempfile.TemporaryDirectory() as name:
    ...     store.write_dataset(pathlib.Path(name, "means.nc"), dataset)
    ...     found = store.read_dataset(pathlib.Path(name, "means.nc"))
    >>> found["mean"].sel(neuron_site="dense1", neuron_index=7).item()
    2.0
    """
    plain = dataset.reset_index([dim for dim in dataset.dims if f"{dim}_site" in dataset.indexes])
    plain = plain.assign_attrs(format=FORMAT)
    checksums.write_result(path, lambda part: plain.to_netcdf(part, engine="h5netcdf"))


def read_dataset(path: Path) -> xr.Dataset:
    """The dataset in a result file, read whole into memory; its neurons are selected by site and index.

    Process 0 reads the file, and every process has the dataset. Nothing in it is trusted: its size, its links and its
    text are checked, and its checksum where one was noted. `load` reads all files of a run's directory.

    Arguments:
        path: a file of `write_dataset`.

    Returns:
        The dataset, without the attribute `format`. Variables have `units` and `description` among their attributes.

    Raises InputError where the file is missing, damaged or links to other files, and FormatError where it is of another
    format than FORMAT.

    >>> import pathlib, tempfile, xarray as xr
    >>> from neuron_mech import store
    >>> with tempfile.TemporaryDirectory() as name:
    ...     path = pathlib.Path(name, "train.nc")
    ...     store.write_dataset(path, xr.Dataset({"loss": store.variable("step", [2.0, 1.5], "of each step", "nat")}))
    ...     found = store.read_dataset(path)
    >>> found["loss"].values.tolist(), found["loss"].attrs
    ([2.0, 1.5], {'units': 'nat', 'description': 'of each step'})
    """

    def read() -> bytes:
        """The content after "=", or the reason why there is none after "!", so that all processes end alike."""
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
    except Exception as error:  # a damaged file surfaces as any of a dozen types
        raise InputError(
            f"{path} cannot be read ({first_line(error)}): remove it, and run its experiment again"
        ) from None
    if (written := found.attrs.pop("format", 1)) != FORMAT:
        raise FormatError(
            f"{path} is of result format {written}, and this version reads format {FORMAT} only: remove it and run its "
            "experiment again, or open it with xarray.open_dataset and read its own descriptions"
        )
    return selectable(found)


class FormatError(InputError):
    """A result file is whole, but of another format."""


def load(run_dir: str | Path) -> xr.DataTree:
    """All result files of a run directory as one tree of datasets.

    Everything is read into memory, and checked: a damaged file is an error, not other numbers.

    Arguments:
        run_dir: the directory, such as runs/digits.

    Returns:
        A tree with a node for each file, named as the file without its suffix, and a node `seedN` for each repetition
            with another seed, with its files below. Neurons are selected by site and index; every variable has its
            `units` and `description` among its attributes. The root's attributes are the run's config, by
            `section.field`; none where the directory has no config.

    Raises:
        InputError: where there are no result files, or one of them, or the config, cannot be read.
        FormatError: where a file was written in another format than this version's.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import neuron_mech, xarray
    >>> from neuron_mech import store
    >>> with tempfile.TemporaryDirectory() as directory:  # instead of a run that wrote it
    ...     result = xarray.Dataset({"constancy": ("site", [0.5, 0.75])}, {"site": ["dense1", "dense2"]})
    ...     store.write_dataset(Path(directory) / "gradient_signs.nc", result)
    ...     run = neuron_mech.load(directory)
    >>> run["gradient_signs"].constancy.sel(site="dense2").item()
    0.75

    Which training images does neuron 17 of dense2 push down, and how constantly?

    ```python
    run = neuron_mech.load("runs/digits")
    average = run["average_signs"].average_sign.sel(neuron_site="dense2", neuron_index=17)
    average.sample[average > 0]  # their ids; a positive derivative: the loss falls when the activation does
    run["seed1/gradient_signs"].constancy  # of a repetition
    ```
    """
    directory = Path(run_dir)
    files.check(directory)
    nodes: dict[str, Any] = {"/": xr.Dataset(attrs=_settings(directory))}
    for of_seed in seed_directories(directory):
        below = of_seed.relative_to(directory)
        for path in sorted(of_seed.glob("*.nc")):
            if "." not in path.stem:  # unlike binarization.damaged.nc, which was moved away
                nodes[(below / path.stem).as_posix()] = read_dataset(path)
    if len(nodes) == 1:
        raise InputError(f"{directory} holds no result files: name a run's directory, such as runs/digits")
    return xr.DataTree.from_dict(nodes, name=directory.resolve().name)


def _settings(directory: Path) -> dict[str, Any]:
    """The config of the run in a directory, by `section.field`; {} where there is none."""
    found: dict[str, Any] = {}
    for path in (directory / name for name in checksums.RUN):
        try:
            tree = files.read_json(path) if path.exists() else {}
            for name, part in tree.items():
                found |= (
                    {f"{name}.{field}": of for field, of in part.items()} if isinstance(part, dict) else {name: part}
                )
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{path} cannot be read ({first_line(error)}): restore it") from None
    return found


def _texts(dataset: xr.Dataset) -> Iterator[str]:
    """All names, attributes and values of a dataset that are text."""
    for attributes in (dataset.attrs, *(variable.attrs for variable in dataset.variables.values())):
        yield from (str(part) for pair in attributes.items() for part in pair)
    for name, variable in dataset.variables.items():
        yield from map(str, (name, *variable.dims))
        yield from map(str, variable.values.flat if variable.dtype.kind in "OSU" else ())


def exists(path: Path) -> bool:
    """Whether a file exists for process 0, which is what all processes use."""
    return processes.broadcast(lambda: str(path.exists()).encode()) == b"True"
