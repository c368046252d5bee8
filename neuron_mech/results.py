"""A run's directory: who may write it, which config it belongs to, and files that are whole or not believed.

A result file counts where it is there and its SHA-256 is the one that `checksums.json` has of it; a step counts as done
where all the files that it wrote do. What is damaged or gone is not done, and is made again.

runs/PRESET/config.json  identity.json  checkpoints/  train.nc  gradient_signs.nc  figures/*.png, *.svg
"""

import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import filelock
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from neuron_mech import identity, processes
from neuron_mech.errors import InputError, RunError, first_line
from neuron_mech.figures import style
from neuron_mech.presets import Config, Data, Model, Record, Train, Watch, differences

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
            write(described, lambda part: part.write_text(text, encoding="utf-8"))
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
            if fresh and set(directory.iterdir()) - {bound} == before - {bound}:
                described.unlink()
                if bound not in before:
                    bound.unlink(missing_ok=True)
            raise


def read_config(directory: Path) -> Config:
    """The config of the run in `directory`. Raises InputError where there is none that can be read."""
    path = directory / "config.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
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
            write(path, lambda part: part.write_text(text, encoding="utf-8"))
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


def write_result(path: Path, save: Callable[[Path], Any]) -> None:
    """Write a file of results: as `write`, its checksum noted, and for the `step` under way.

    It is noted before the file is in place, beside the last one: a process killed in between leaves what is believed.
    """
    root, name = _place(path)

    def sealed(part: Path) -> None:
        save(part)
        noted = _noted(root)
        sums = [_sha256(part.read_bytes()), *noted["files"].get(name, [])[:1]]
        noted["files"][name] = list(dict.fromkeys(sums))
        _note(root, noted)

    write(path, sealed)
    owed(path)


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
        return "" if _sha256(path.read_bytes()) in sums else "is not what was written"
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
        found = json.loads((root / CHECKSUMS).read_text(encoding="utf-8"))
        if any(_place(root / name) != (root, name) for of in found["done"].values() for name in of):
            raise ValueError("it names a file outside")
        return {part: {str(name): list(of) for name, of in found[part].items()} for part in ("files", "done")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {"files": {}, "done": {}}


def _note(root: Path, noted: Mapping[str, Any]) -> None:
    """Write checksums.json, where this is a run's directory: of a file elsewhere nothing is kept."""
    if not any((root / name).exists() for name in RUN):
        return
    text = json.dumps(noted, indent=1, sort_keys=True) + "\n"
    write(root / CHECKSUMS, lambda part: part.write_text(text, encoding="utf-8"))


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
    write_result(path, lambda part: dataset.to_netcdf(part, engine="h5netcdf"))


def read_dataset(path: Path) -> xr.Dataset:
    """A result file, loaded and closed. Raises InputError where it is missing or damaged.

    Of several processes, 0 reads it and tells the others.
    """
    root, name = _place(path)

    def read() -> bytes:
        """What it holds, or after a mark why there is nothing: all processes come to the same end."""
        try:
            content = path.read_bytes()
        except OSError as error:
            return b"!" + str(error).encode()
        sums = _noted(root)["files"].get(name, [])
        return b"!it is not what was written" if sums and _sha256(content) not in sums else b"=" + content

    try:
        content = processes.told(read)
        if content[:1] == b"!":
            raise ValueError(content[1:].decode())
        with xr.open_dataset(io.BytesIO(content[1:]), engine="h5netcdf") as dataset:
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
                write_result(path, partial(figure.savefig, metadata=metadata))
    return paths
