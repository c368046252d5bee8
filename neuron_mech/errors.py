"""The ways in which a run ends early, told apart because a script must react to them differently."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What was asked for cannot be done. Nothing was started; the command line exits with code 2.

    The message is one line that names the field, the value, and what to do.
    """

    exit_code = 2


class RunError(RuntimeError):
    """A run that had started cannot go on. What it had saved is intact; the command line exits with code 1."""

    exit_code = 1


class Interrupted(RunError):
    """A run was asked to stop by a signal and saved itself; the command line exits with 128 + the signal's number."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signum


def first_line(error: BaseException) -> str:
    """What an error of a library's says, in a line of at most 200 characters."""
    return harmless((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'dense1'? ` where one of the known names is near, else nothing: for a line that goes on."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def harmless(text: str) -> str:
    """Text from elsewhere as one line for a terminal: what does not print, or moves the cursor, as its number."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
