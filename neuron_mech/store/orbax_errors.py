"""What the errors of Orbax, TensorStore and the system below them mean for who asked."""

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
"""What a system answers that cannot read a file, whole or not."""


def of_the_machine(error: BaseException, directory: Path) -> str:
    """What keeps the machine from reading a checkpoint's files; nothing where these are to blame, gone or not whole."""
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
    """From here on, drop what Orbax's coroutines raise as they are thrown away, and TensorStore's threads after them.

    When one array cannot be read, those still under way are abandoned, and Python prints a page for each at any later
    time, though the failure has been dealt with.
    """
    if sys.unraisablehook is not _report_others:
        _reports.append(sys.unraisablehook)
        sys.unraisablehook = _report_others


_reports: list[Callable[[Any], Any]] = []
"""What reported an error that nobody catches, before it was told to pass over some; the last one counts."""


def _report_others(unraisable: Any) -> None:
    trace = unraisable.exc_traceback
    closed = str(unraisable.exc_value) == "Event loop is closed"
    if not (closed or (trace and "orbax" in trace.tb_frame.f_code.co_filename)):
        _reports[-1](unraisable)


def reason(error: BaseException) -> str:
    """What a long library error says happened, in a line."""
    text = str(error)
    if "No space left" in text or "RESOURCE_EXHAUSTED" in text:
        return "No space left on device"
    return first_line(error).split(". See full")[0]
