"""Checksums of result files, by which damaged or missing ones are noticed and made again.

`checksums.json` holds the SHA-256 of every result file, and the files of every step of work. A step counts as done
where all its files exist and have their checksums.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from neuron_mech.store import files

T = TypeVar("T")

CHECKSUMS = "checksums.json"
"""Name of the file with the checksums."""

RUN = ("config.json", "options.json")
"""Files that say which run a directory holds: a run of a preset, or of a text."""

FOLDERS = ("figures", "videos")
"""Folders of a run's directory that hold result files."""


def write_result(path: Path, save: Callable[[Path], Any]) -> None:
    """Write a result file by `files.write`, note its checksum, and count it among the files of the current `step`.

    The new checksum is noted before the file is in place, and the previous one is kept beside it: if the process is
    killed in between, either file is valid.
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


def owed(path: Path) -> None:
    """Count a file among those of the current `step`, even if it was not written: then the step is not done."""
    if _under_way:
        _under_way[-1].append(_place(path))


_under_way: list[list[tuple[Path, str]]] = []
"""(run's directory, file name) of the files of each step in progress, the outermost step first."""


def step(name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorate the function that does one step of work; its first argument has the run's `directory`.

    When the function returns, the step is noted as done, with the files written in that directory (see `lost`). Files
    of a step inside it belong to the inner one.
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
    """What is wrong with the files of a step that was done, a few words each; None where it was never done."""
    noted = _noted(directory)
    if name not in noted["done"]:
        return None
    troubles = ((file, _trouble(directory / file, noted["files"].get(file, ()))) for file in noted["done"][name])
    return [f"{file} {trouble}" for file, trouble in troubles if trouble]


def all_lost(directory: Path) -> list[str]:
    """`lost` of every step that was done."""
    return [line for name in _noted(directory)["done"] for line in lost(directory, name) or ()]


def whole(path: Path) -> bool:
    """Whether a file exists and, where its checksum was noted, has it."""
    root, name = _place(path)
    sums = _noted(root)["files"].get(name)
    return path.exists() if sums is None else not _trouble(path, sums)


def as_written(path: Path, content: bytes) -> bool:
    """Whether `content` has the checksum noted for a file, if one was noted."""
    root, name = _place(path)
    sums = _noted(root)["files"].get(name, [])
    return not sums or _sha256(content) in sums


def _trouble(path: Path, sums: Collection[str]) -> str:
    try:
        return "" if _sha256(files.read(path)) in sums else "is not what was written"
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _place(path: Path) -> tuple[Path, str]:
    """(the run's directory, the file's name in it): result files are in the directory or in one of its FOLDERS."""
    root = path.parent.parent if path.parent.name in FOLDERS else path.parent
    return root, path.relative_to(root).as_posix()


def _noted(root: Path) -> dict[str, dict[str, list[str]]]:
    """checksums.json: `files`, the checksums of each file, and `done`, the files of each step.

    Empty where it cannot be read or names a file outside the directory. Then nothing counts as done, which costs time
    but loses no result.
    """
    try:
        found = files.read_json(root / CHECKSUMS)
        if any(_place(root / name) != (root, name) for of in found["done"].values() for name in of):
            raise ValueError("it names a file outside")
        return {part: {str(name): list(of) for name, of in found[part].items()} for part in ("files", "done")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {"files": {}, "done": {}}


def _note(root: Path, noted: Mapping[str, Any]) -> None:
    """Write checksums.json, but only in a run's directory."""
    if not any((root / name).exists() for name in RUN):
        return
    files.write_text(root / CHECKSUMS, json.dumps(noted, indent=1, sort_keys=True) + "\n")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
