"""The errors that end a run early, by exit code, and helpers for their messages."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A request that cannot be met. Nothing was started; the command line exits with code 2.

    The message is one line that names the field, the value, and what to do.
    """

    exit_code = 2


class RunError(RuntimeError):
    """A started run cannot go on. Its saved state is intact; the command line exits with code 1."""

    exit_code = 1


class Interrupted(RunError):
    """A run was stopped by a signal and saved itself; the command line exits with 128 + the signal's number."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signum


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, at most 200 characters."""
    return harmless((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'dense1'? ` where a known name is similar, else "": for the middle of an error message."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def harmless(text: str) -> str:
    """Text from a file as one line for a terminal, with characters that do not print escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
