"""Command-line arguments as a dataclass, by tyro: parsed, explained by --help, or refused in one line."""

import contextlib
import io
import os
from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar

import tyro

from neuron_mech.errors import InputError, nearest

T = TypeVar("T")


def split_preset(arguments: Sequence[str], name: str, known: Collection[str]) -> tuple[str, list[str]]:
    """(the preset, the arguments after it); --help in its place gives the help of the first known preset."""
    if arguments and arguments[0] in ("-h", "--help"):
        return next(iter(known)), ["--help"]
    if not arguments:
        raise InputError(
            f"no preset given: python -m experiments.{name} PRESET, where PRESET is one of {', '.join(known)}"
        )
    if arguments[0] not in known:
        hint = nearest(arguments[0], known)
        raise InputError(f"{arguments[0]!r} is no preset; {hint}presets are: {', '.join(known)}")
    return arguments[0], list(arguments[1:])


def split_names(arguments: Sequence[str], count: int) -> tuple[list[str], list[str]]:
    """(the first `count` arguments, those after them); without arguments, and for --help, ([], ["--help"])."""
    if not arguments or arguments[0] in ("-h", "--help"):
        return [], ["--help"]
    return list(arguments[:count]), list(arguments[count:])


def ask(kind: type[T], default: T, arguments: Sequence[str], name: str, description: str) -> T:
    """`arguments` as an instance of the dataclass `kind`. Raises InputError, one line, where they do not fit."""
    errors = io.StringIO()
    helping = bool({"-h", "--help"} & set(arguments))
    try:
        # tyro draws its errors as boxes as wide as the terminal: in a wide one each message stays on one line.
        with contextlib.redirect_stderr(errors), contextlib.nullcontext() if helping else _wide_terminal():
            return tyro.cli(
                kind, default=default, args=arguments, prog=f"python -m experiments.{name}", description=description
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise InputError(_one_line(errors.getvalue())) from None


@contextlib.contextmanager
def _wide_terminal() -> Iterator[None]:
    before = dict(os.environ)
    os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _one_line(box: str) -> str:
    """The message inside one of tyro's boxes, without title, rules and borders: tyro offers it in no other form."""
    lines = [
        line.strip(" │|╭╮╰╯─-") if set(line) <= set(" │|╭╮╰╯─-") else line.strip(" │|") for line in box.splitlines()
    ]
    said = [line for line in lines if line][1:]
    meant = f"; perhaps you meant {said[2]}" if len(said) > 2 and said[1].startswith("Perhaps") else ""
    return f"{said[0].rstrip('.')}{meant} (--help lists every option)"
