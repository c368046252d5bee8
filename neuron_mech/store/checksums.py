"""Result files that are whole or not believed.

A result file counts where it is there and its SHA-256 is the one that `checksums.json` has of it; a step counts as done
where all the files that it wrote do. What is damaged or gone is not done, and is made again.
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
"""Of a run's result files."""

RUN = ("config.json", "options.json")
"""What says which run a directory holds: one of a preset, or of a text."""

FOLDERS = ("figures", "videos")
"""Of a run's directory, those that hold result files."""


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


def as_written(path: Path, content: bytes) -> bool:
    """Whether this is what was written to a file, where that was noted."""
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
