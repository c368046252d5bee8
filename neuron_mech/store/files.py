"""Files of a run directory: written whole or not at all, never through a link, and read with distrust.

A run directory may be somebody else's. Nothing in it is followed to a file outside, and nothing is read before its size
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
"""Bytes of a file that is read whole, at most."""

LARGEST_TEXT = 2**24
"""The same of text."""

UNFOLDED = 20
"""How many times its own size an HDF5 file may claim to hold, beyond 64 MB: only average signs are compressed."""

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
"""What helps against an error of the system's; against others, looking at the disk."""


def check(directory: Path) -> None:
    """Raise InputError where a run directory holds a link, or anything else that is no file and no directory.

    Links lead out of it, to files that would be shown or changed. The directory itself may be one.
    """
    pending = [str(directory)]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue  # gone, or not to be read: then it does no harm
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                what = f"a link to {os.readlink(entry.path)}" if entry.is_symlink() else "neither file nor directory"
                raise InputError(f"{entry.path} is {what}, which a run directory may not hold: remove it")


def part(path: Path) -> Path:
    """A new, empty file beside `path`, to be filled and put in its place.

    Nobody can know its name beforehand. The suffix stays last, since matplotlib and others choose the format by it.
    """
    made = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.part{path.suffix}")
    os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return made


def remove_parts(directory: Path) -> None:
    """Remove what a process that was killed while it wrote has left behind."""
    for path in directory.rglob(".*.part*"):
        if _PART.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors into a RunError that says what helps."""
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
    """What helps against an error of the system's. HDF5, TensorStore and Orbax hide its number in their texts."""
    text = str(error)
    if "No space left" in text or "RESOURCE_EXHAUSTED" in text:
        return _ADVICE[errno.ENOSPC]
    hidden = re.search(r"\berrno = (\d+)", text)
    number = int(hidden[1]) if hidden else getattr(error, "errno", None)
    return _ADVICE.get(number or 0, "look at the disk")


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Let `save` write a file beside `path`, then put it in place in one motion: readers see it whole or not at all.

    Of several processes, 0 does. Raises RunError where it cannot be written; what stood at `path` stays.
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


def read(path: Path, largest: int = LARGEST) -> bytes:
    """A whole file. Raises OSError, before anything is read, for a link, for what is no file, and for too much."""
    with _opened(path, os.O_RDONLY) as file:
        if (size := os.fstat(file.fileno()).st_size) > largest:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and {largest:,} are read at most", str(path))
        return file.read(size)


def read_text(path: Path) -> str:
    """A text file. Raises OSError as `read` does, and ValueError where it is no UTF-8."""
    return read(path, LARGEST_TEXT).decode()


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError as `read` does, and ValueError where it is none."""
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def change(path: Path) -> BinaryIO:
    """A file to be changed where it is. Raises OSError for a link, and for a file that has another name too."""
    file = _opened(path, os.O_RDWR)
    if os.fstat(file.fileno()).st_nlink > 1:
        file.close()
        raise OSError(errno.EMLINK, "it has another name, under which it would change too", str(path))
    return file


def _opened(path: Path, flags: int) -> BinaryIO:
    """An open file that is no link. O_NONBLOCK: a pipe would be waited for."""
    file = os.fdopen(os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK), "rb" if flags == os.O_RDONLY else "r+b")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def read_array(path: Path, mapped: bool = False) -> np.ndarray:
    """A .npy file, in memory or mapped from the disk.

    Raises OSError as `read` does, and ValueError where its size is not that of the array that it claims to hold.
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
    """Raise ValueError for an HDF5 file of `size` bytes that leads to other files, or claims to hold absurdly much."""
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
