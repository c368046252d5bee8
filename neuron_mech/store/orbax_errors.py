"""What errors of Orbax, TensorStore and the operating system below them mean for the user."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuron_mech.errors import first_line

_MACHINE = (
    errno.EIO,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.EACCES,
    errno.EPERM,
    errno.ESTALE,
    errno.ETIMEDOUT,
)
"""Errors of a system that cannot read a file, whether the file is damaged or not."""


def of_the_machine(error: BaseException, directory: Path) -> str:
    """Why the machine cannot read a checkpoint's files; "" where the files themselves are damaged or missing."""
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return os.strerror(error.errno)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "out of memory"
    if said := next((os.strerror(code) for code in _MACHINE if os.strerror(code) in str(error)), ""):
        return said
    try:
        for path in directory.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    while file.read(2**24):
                        pass
    except OSError as unreadable:
        return f"{path.name}: {unreadable.strerror}"
    return ""


def mute_abandoned_reads() -> None:
    """From now on ignore errors raised by Orbax's and TensorStore's abandoned reads.

    When one array cannot be read, the other reads are abandoned, and Python prints a page for each at some later time,
    although the failure has been handled.
    """
    if sys.unraisablehook is not _report_others:
        _reports.append(sys.unraisablehook)
        sys.unraisablehook = _report_others


_reports: list[Callable[[Any], Any]] = []
"""The hooks for uncaught errors that were installed before; the last one is used."""


def _report_others(unraisable: Any) -> None:
    trace = unraisable.exc_traceback
    closed = str(unraisable.exc_value) == "Event loop is closed"
    if not (closed or (trace and "orbax" in trace.tb_frame.f_code.co_filename)):
        _reports[-1](unraisable)


def reason(error: BaseException) -> str:
    """The cause given in a library's long error message, in one line."""
    text = str(error)
    if "No space left" in text or "RESOURCE_EXHAUSTED" in text:
        return "No space left on device"
    return first_line(error).split(". See full")[0]
