"""A run's directory: who may write it, which config it belongs to, and files that are whole or not believed.

A result file counts where it is there and its SHA-256 is the one that `checksums.json` has of it; a step counts as done
where all the files that it wrote do. What is damaged or gone is not done, and is made again.

runs/PRESET/config.json  identity.json  checkpoints/  train.nc  gradient_signs.nc  figures/*.png, *.svg
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import platform
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import filelock
import numpy as np

from neuron_mech import figures, files, identity, processes
from neuron_mech.errors import InputError, first_line, harmless
from neuron_mech.lazily import h5py
from neuron_mech.lazily import xarray as xr
from neuron_mech.presets import PRESETS, Config, Data, Model, Record, Train, Watch, differences

T = TypeVar("T")

CHECKSUMS = "checksums.json"
"""Of a run's result files."""

RUN = ("config.json", "options.json")
"""What says which run a directory holds: one of a preset, or of a text."""

FOLDERS = ("figures", "videos")
"""Of a run's directory, those that hold result files."""


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
        except BaseException as error:
            # Checkpoints that were there before are somebody's: what goes on from them stays, unless it is refused.
            if fresh and (isinstance(error, InputError) or directory / "checkpoints" not in before):
                _vacate(directory, before)
            raise


def _vacate(directory: Path, before: set[Path]) -> None:
    """Remove what a run that came to nothing has left, unless there is something to go on from."""
    made = set(directory.iterdir()) - before
    saved = directory / "checkpoints" in made and any(p.name.isdecimal() for p in (directory / "checkpoints").glob("*"))
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


def bind(directory: Path, facts: Mapping[str, Any]) -> None:
    """Store what the run in `directory` is (see `identity`), or hold it against what is stored there.

    Every process holds its own facts, those of the data that it reads above all, against process 0's. Raises
    InputError, naming the facts that differ.
    """
    path = directory / "identity.json"

    def stored() -> bytes:
        if not path.exists():
            files.write_text(path, json.dumps(facts, indent=2) + "\n")
        return files.read(path, files.LARGEST_TEXT)

    changed = identity.changed(_parsed(path, processes.told(stored)), facts)
    if changed:
        raise InputError(
            f"--run-dir {directory} holds a run on other data or under other settings (there / here): "
            f"{'; '.join(changed)}: name the --data-dir that it began with, set the rest as it is there, or name "
            "another --run-dir"
        )


def write_result(path: Path, save: Callable[[Path], Any]) -> None:
    """Write a file of results: as `files.write`, its checksum noted, and for the `step` under way.

    It is noted before the file is in place, beside the last one: a process killed in between leaves what is believed.
    """
    root, name = _place(path)

    def sealed(part: Path) -> None:
        save(part)
        noted = _noted(root)
        sums = [_sha256(files.read(part)), *noted["files"].get(name, [])[:1]]
        noted["files"][name] = list(dict.fromkeys(sums))
        _note(root, noted)

    files.write(path, sealed)
    owed(path)


def write_result_text(path: Path, text: str) -> None:
    """`write_result` of text."""
    write_result(path, lambda part: part.write_text(text, encoding="utf-8"))


def owed(path: Path) -> None:
    """Count a file among those of the `step` under way, written or not: where it is not, the step is not done."""
    if _under_way:
        _under_way[-1].append(_place(path))


_under_way: list[list[tuple[Path, str]]] = []
"""Of every step under way, the outermost first: (run's directory, name) of the files that belong to it."""


def step(name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorate what makes the files of one step, a function of a run or session whose `directory` they are in.

    When it ends well, the step is done with the files it wrote (see `lost`); files of a step inside it are that one's.
    """

    def decorated(make: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(make)
        def made(at: Any, *arguments: Any, **options: Any) -> T:
            noted = _noted(at.directory)
            if noted["done"].pop(name, None) is not None:
                _note(at.directory, noted)
            _under_way.append([])
            try:
                found = make(at, *arguments, **options)
                files = sorted({of for root, of in _under_way[-1] if root == at.directory})
            finally:
                _under_way.pop()
            noted = _noted(at.directory)
            _note(at.directory, noted | {"done": noted["done"] | {name: files}})
            return found

        return made

    return decorated


def lost(directory: Path, name: str) -> list[str] | None:
    """What is wrong with the files of a step that was done, in a few words each; None where it never was."""
    noted = _noted(directory)
    if name not in noted["done"]:
        return None
    troubles = ((file, _trouble(directory / file, noted["files"].get(file, ()))) for file in noted["done"][name])
    return [f"{file} {trouble}" for file, trouble in troubles if trouble]


def all_lost(directory: Path) -> list[str]:
    """`lost` of every step that was done."""
    return [line for name in _noted(directory)["done"] for line in lost(directory, name) or ()]


def whole(path: Path) -> bool:
    """Whether a file is there, and is what was written where that was noted."""
    root, name = _place(path)
    sums = _noted(root)["files"].get(name)
    return path.exists() if sums is None else not _trouble(path, sums)


def _trouble(path: Path, sums: Collection[str]) -> str:
    try:
        return "" if _sha256(files.read(path)) in sums else "is not what was written"
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _place(path: Path) -> tuple[Path, str]:
    """(run's directory, name of a file within): result files are in it, or in one of its folders."""
    root = path.parent.parent if path.parent.name in FOLDERS else path.parent
    return root, path.relative_to(root).as_posix()


def _noted(root: Path) -> dict[str, dict[str, list[str]]]:
    """checksums.json: `files`, the checksums of each by name, and `done`, the files of each step; empty if unreadable.

    Then nothing counts as done, which costs time and no result. So does one that names files outside the directory.
    """
    try:
        found = files.read_json(root / CHECKSUMS)
        if any(_place(root / name) != (root, name) for of in found["done"].values() for name in of):
            raise ValueError("it names a file outside")
        return {part: {str(name): list(of) for name, of in found[part].items()} for part in ("files", "done")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {"files": {}, "done": {}}


def _note(root: Path, noted: Mapping[str, Any]) -> None:
    """Write checksums.json, where this is a run's directory: of a file elsewhere nothing is kept."""
    if not any((root / name).exists() for name in RUN):
        return
    files.write_text(root / CHECKSUMS, json.dumps(noted, indent=1, sort_keys=True) + "\n")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
    write_result(path, lambda part: dataset.to_netcdf(part, engine="h5netcdf"))


def read_dataset(path: Path) -> xr.Dataset:
    """A result file, loaded and closed. Raises InputError where it is missing, damaged, or leads to other files.

    Of several processes, 0 reads it and tells the others.
    """
    root, name = _place(path)

    def read() -> bytes:
        """What it holds, or after a mark why there is nothing: all processes come to the same end."""
        try:
            content = files.read(path)
        except OSError as error:
            return b"!" + str(error).encode()
        sums = _noted(root)["files"].get(name, [])
        return b"!it is not what was written" if sums and _sha256(content) not in sums else b"=" + content

    try:
        content = processes.told(read)
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
    return processes.told(lambda: str(path.exists()).encode()) == b"True"


def write_figure(directory: Path, name: str, figure: figures.Figure) -> list[Path]:
    """Write a figure as `figures/NAME.png` and `.svg` in a run's directory; the same figure gives the same bytes."""
    paths = [directory / "figures" / f"{name}{suffix}" for suffix in (".png", ".svg")]
    if processes.first():
        with figures.style():
            figure.draw_without_rendering()  # a second layout pass, for tick labels that the first one changed
            for path in paths:
                metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
                write_result(path, partial(figure.savefig, metadata=metadata))
    return paths
