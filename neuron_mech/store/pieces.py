"""Packing files into zip files of limited size ("pieces"), and unpacking them; damaged pieces are refused by name.

The first piece is NAME.zip. It holds pieces.json with the checksums of all files and of all other pieces. The others
are beside it as NAME.DIGEST.zip, named after their content, so that there is a complete set at any moment of packing
again: new pieces are written first, then NAME.zip replaces the old one, then pieces that it no longer names are
removed. A file too large for a piece is cut into FILE.part001, FILE.part002 and so on; `cat` joins them again.
"""

import hashlib
import io
import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuron_mech.errors import InputError, RunError
from neuron_mech.store import files

INDEX = "pieces.json"
SMALLEST = 1_000_000
"""Smallest size of a piece in bytes: it holds the index of any run, and some content."""


def check(first: Path, limit: int = SMALLEST) -> None:
    """Raise InputError where pieces cannot be written as `first`, or `limit` is too small."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.zip", first.name):
        raise InputError(f"{first} is no name for an export: give one of letters, digits, '.', '_', '-' and .zip")
    if limit < SMALLEST:
        raise InputError(f"a piece of {limit / 1e6:g} MB is too small: give at least {SMALLEST / 1e6:g} MB")
    probe = first.with_name(f".{first.stem}.writable")
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{first} cannot be written ({error.strerror}): name another file for the export") from None


def pack(contents: Mapping[str, bytes], first: Path, limit: int) -> list[Path]:
    """Write `contents` (by path, with slashes) in pieces of at most `limit` bytes; returns the paths of the pieces.

    The first files are in the first piece, as far as they fit. The same files give the same bytes. Raises InputError as
    `check` does, and RunError where a piece cannot be written; an earlier set of pieces is then intact.
    """
    check(first, limit)
    # A part fits a piece, with its zip headers, even if it cannot be compressed.
    most = limit - limit // 1000 - 2000
    parts = {name: _cut(data, most) for name, data in contents.items()}
    reserved = 1000 + sum(250 + len(name) + len(parts[name]) * (120 + len(first.name)) for name in contents)
    groups = _grouped([(m, data) for name in contents for m, data in _members(name, parts[name])], limit, reserved)
    others = {}
    for group in groups[1:]:
        content = _zipped(group)
        digest = hashlib.sha256(content).hexdigest()
        path = first.with_name(f"{first.stem}.{digest[:16]}.zip")
        others[path.name] = digest
        files.write_bytes(path, content)
    index = {
        "pieces": others,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "parts": len(parts[name])}
            for name, data in contents.items()
        },
    }
    files.write_bytes(first, _zipped([(INDEX, json.dumps(index, indent=1).encode()), *groups[0]]))
    stale = re.compile(rf"{re.escape(first.stem)}\.[0-9a-f]{{16}}\.zip")
    for path in first.parent.iterdir():
        if stale.fullmatch(path.name) and path.name not in others:
            path.unlink()
    return [first, *(first.with_name(name) for name in others)]


def unpack(first: Path, directory: Path) -> list[str]:
    """Unpack the files of all pieces that `first` names into a new `directory`, all or none; returns their paths.

    Raises InputError that names a missing or damaged piece, or a directory that is not empty, and RunError where the
    files cannot be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} is there already: name a new directory to unpack into")
    again = f"{first} is damaged, or no export"
    try:
        index = _index(first)
    except FileNotFoundError:
        raise InputError(f"{first} is not there: name the first piece of an export") from None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{again} ({error}): fetch it again") from None
    others = [first.with_name(name) for name in index["pieces"]]
    if missing := [path.name for path in others if not path.exists()]:
        raise InputError(
            f"{len(missing)} of {len(others) + 1} pieces are missing beside {first}: fetch {', '.join(missing)}"
        )
    if wrong := [p.name for p in others if hashlib.sha256(p.read_bytes()).hexdigest() != index["pieces"][p.name]]:
        raise InputError(f"{', '.join(wrong)} beside {first} is damaged (its checksum differs): fetch it again")
    aside = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for name, content in _files(index, [first, *others]):
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if directory.exists():
            directory.rmdir()
        aside.rename(directory)
    except (KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{again} ({error}): fetch it again") from None  # the others have been verified
    except OSError as error:
        raise RunError(
            f"cannot write to {directory} ({error.strerror or error}): make room, or name another"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return list(index["files"])


def _cut(data: bytes, most: int) -> list[bytes]:
    return [data[start : start + most] for start in range(0, max(len(data), 1), most)]


def _members(name: str, parts: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """(name in the zip file, content) of the parts of a file; one part is the file itself."""
    if len(parts) == 1:
        return [(name, parts[0])]
    return [(f"{name}.part{index:03}", part) for index, part in enumerate(parts, 1)]


def _grouped(members: list[tuple[str, bytes]], limit: int, reserved: int) -> list[list[tuple[str, bytes]]]:
    """Members by piece, each in the first piece with room for it; `reserved` bytes of the first piece are taken."""
    groups: list[list[tuple[str, bytes]]] = [[]]
    sizes = [reserved]
    for name, data in members:
        takes = len(zlib.compress(data)) + 2 * len(name) + 100
        at = next((index for index, size in enumerate(sizes) if size + takes <= limit), len(groups))
        if at == len(groups):
            groups.append([])
            sizes.append(100)
        groups[at].append((name, data))
        sizes[at] += takes
    return groups


def _zipped(members: Sequence[tuple[str, bytes]]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            entry = zipfile.ZipInfo(name)  # of a fixed date
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)
    return content.getvalue()


def _index(first: Path) -> dict[str, Any]:
    """pieces.json of a first piece. Raises ValueError where it names a file outside the directory."""
    with zipfile.ZipFile(first) as archive:
        index = json.loads(archive.read(INDEX))
    inside = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")
    if bad := [name for name in (*index["files"], *index["pieces"]) if not inside.fullmatch(name)]:
        raise ValueError(f"it names {bad[0]!r}")
    return index


def _files(index: dict[str, Any], paths: Sequence[Path]) -> Any:
    """(path, verified content) of every file. Raises ValueError where one does not verify."""
    archives = [zipfile.ZipFile(path) for path in paths]
    try:
        holds = {name: archive for archive in archives for name in archive.namelist()}
        for name, about in index["files"].items():
            members = [name] if about["parts"] == 1 else [f"{name}.part{k + 1:03}" for k in range(about["parts"])]
            content = b"".join(holds[member].read(member) for member in members)
            if hashlib.sha256(content).hexdigest() != about["sha256"]:
                raise ValueError(f"checksum of {name} differs")
            yield name, content
    finally:
        for archive in archives:
            archive.close()
