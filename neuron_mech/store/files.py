"""Files of a run directory: written whole or not at all, never through a link, and read with distrust.

A run directory may come from somebody else. So links out of it are never followed, and nothing is read before its size
is known. All text is UTF-8, whatever the locale.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from neuron_mech.cluster import processes
from neuron_mech.errors import InputError, RunError, first_line
from neuron_mech.lazily import h5py

LARGEST = 2**32
"""Largest size in bytes of a file that is read whole."""

LARGEST_TEXT = 2**24
"""Largest size in bytes of a text file."""

UNFOLDED = 20
"""Largest ratio of an HDF5 file's uncompressed size (beyond 64 MB) to its own; only average signs are compressed."""

_PART = re.compile(r"\..*\.[0-9a-f]{16}\.part(\.\w+)?")

_ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EACCES: "see that it may be written",
    errno.EPERM: "see that it may be written",
    errno.EROFS: "see that it may be written",
    errno.ENAMETOOLONG: "name a directory with a shorter path",
    errno.EMLINK: "put a copy in its place",
}
"""What the user can do about an error of the system; about any other: look at the disk."""


def check(directory: Path) -> None:
    """Raise InputError where a run directory holds a link, or anything else that is neither a file nor a directory.

    A link could lead to files elsewhere, which would be shown or changed. The directory itself may be a link.
    """
    pending = [str(directory)]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue  # gone, or unreadable: no harm
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                what = f"a link to {os.readlink(entry.path)}" if entry.is_symlink() else "neither file nor directory"
                raise InputError(f"{entry.path} is {what}, which a run directory may not hold: remove it")


def part(path: Path) -> Path:
    """A new, empty file beside `path`, to be filled and then moved to `path`.

    Its name is random. The suffix of `path` stays last, since matplotlib and others choose the format by it.
    """
    made = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.part{path.suffix}")
    os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return made


def remove_parts(directory: Path) -> None:
    """Remove the partial files of processes that were killed while writing."""
    for path in directory.rglob(".*.part*"):
        if _PART.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a RunError that says what the user can do."""
    try:
        yield
    except OSError as error:
        reason, helps = error.strerror or first_line(error), advice(error)
        if helps == _ADVICE[errno.ENOSPC]:
            reason = f"No space left on device; {shutil.disk_usage(path.parent).free / 1e6:.0f} MB free"
        raise RunError(
            f"cannot write {path} ({reason}): what was there before is intact; {helps} and run the same command again"
        ) from error


def advice(error: BaseException) -> str:
    """What the user can do about an error of the system. HDF5, TensorStore and Orbax have its number in their texts."""
    text = str(error)
    if "No space left" in text or "RESOURCE_EXHAUSTED" in text:
        return _ADVICE[errno.ENOSPC]
    hidden = re.search(r"\berrno = (\d+)", text)
    number = int(hidden[1]) if hidden else getattr(error, "errno", None)
    return _ADVICE.get(number or 0, "look at the disk")


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Call `save` with a new path beside `path`, then move that file to `path`: readers see it whole or not at all.

    Only process 0 writes. Raises RunError where it cannot be written; the old file at `path` then stays.
    """
    if not processes.first():
        return
    made: Path | None = None
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            made = part(path)
            save(made)
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(path)
    finally:
        if made is not None:
            made.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write` of text."""
    write(path, lambda made: made.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """`write` of bytes."""
    write(path, lambda made: made.write_bytes(content))


def read(path: Path, largest: int = LARGEST) -> bytes:
    """The bytes of a file. Raises OSError before reading where it is a link, not regular, or above `largest` bytes."""
    with _opened(path, os.O_RDONLY) as file:
        if (size := os.fstat(file.fileno()).st_size) > largest:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and {largest:,} are read at most", str(path))
        return file.read(size)


def read_text(path: Path) -> str:
    """The text of a file. Raises OSError as `read` does, and ValueError where it is not UTF-8."""
    return read(path, LARGEST_TEXT).decode()


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises OSError as `read` does, and ValueError where it is not JSON."""
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def change(path: Path) -> BinaryIO:
    """A file opened to be changed in place. Raises OSError for a link, and for a file with a second (hard) link."""
    file = _opened(path, os.O_RDWR)
    if os.fstat(file.fileno()).st_nlink > 1:
        file.close()
        raise OSError(errno.EMLINK, "it has another name, under which it would change too", str(path))
    return file


def _opened(path: Path, flags: int) -> BinaryIO:
    """A regular file, opened without following a link; O_NONBLOCK, since opening a pipe would wait."""
    file = os.fdopen(os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK), "rb" if flags == os.O_RDONLY else "r+b")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def read_array(path: Path, mapped: bool = False) -> np.ndarray:
    """The array in a .npy file, read or memory-mapped.

    Raises OSError as `read` does, and ValueError where the file's size does not fit the array in its header.
    """
    with _opened(path, os.O_RDONLY) as file:
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        try:
            shape, transposed, kind = headers[np.lib.format.read_magic(file)](file)
        except Exception as error:  # numpy's tokenizer has errors of its own
            raise ValueError(f"its header cannot be read ({first_line(error)})") from None
        size, begin = os.fstat(file.fileno()).st_size, file.tell()
        if kind.hasobject or transposed or min(shape, default=0) < 0:
            raise ValueError(f"it holds {kind} of shape {shape}")
        if (need := begin + math.prod(shape) * kind.itemsize) != size:
            raise ValueError(f"it has {size:,} bytes, and {need:,} are needed for shape {shape}")
        if mapped and size > begin:
            return np.memmap(file, kind, "r", begin, shape)
        return np.fromfile(file, kind).reshape(shape)


def check_hdf5(file: h5py.File, size: int) -> None:
    """Raise ValueError for an HDF5 file of `size` bytes that links to other files or claims an absurd content."""
    held, seen, pending = 0, set(), [file["/"]]
    while pending:
        group = pending.pop()
        if (address := h5py.h5o.get_info(group.id).addr) in seen:
            continue
        seen.add(address)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!r} in it is a link to elsewhere")
            if isinstance(found := group[name], h5py.Group):
                pending.append(found)
            elif isinstance(found, h5py.Dataset):
                if found.is_virtual or found.external:
                    raise ValueError(f"the values of {name!r} are in another file")
                held += math.prod(found.shape or ()) * found.dtype.itemsize
    if held > UNFOLDED * size + 2**26:
        raise ValueError(f"it has {size:,} bytes and claims to hold {held:,}")
