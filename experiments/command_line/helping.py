"""The beginning of `--help`: the presets and the ten options that most runs change; tyro lists all others below."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from neuron_mech.config import PRESETS

COMMON = (
    "run_dir",
    "data_dir",
    "seeds",
    "train.epochs",
    "train.learning_rate",
    "train.seed",
    "model.activation",
    "model.width",
    "record.samples",
    "record.sites",
)
"""The ten options. One that an experiment does not have is left out of its help."""

WIDTH = 100
"""Characters in a line of the tables; tyro breaks the lines of a description by itself."""


def about(description: str, options: Any, preset: str, shared: type) -> str:
    """An experiment's description, the presets, and the common options with the preset's defaults.

    `shared` is the dataclass of the options that every experiment has; further ones are the experiment's own.
    """
    known = dict(_explained(options))
    common = [name for name in map(_flag, COMMON) if name in known]
    own = [_flag(field.name) for field in fields(options) if field.name not in {each.name for each in fields(shared)}]
    lines = [description.strip(), "", f"PRESET is one of {', '.join(PRESETS)}.", ""]
    lines += [f"The options most often changed, with the defaults of {preset}:", *_table(common, known), ""]
    lines += ["Those of this experiment alone:", *_table(own, known), ""] if own else []
    return "\n".join([*lines, "All options, by what they are about:"])


def _table(names: Sequence[str], known: dict[str, tuple[str, str]]) -> list[str]:
    """A line for each option: its name, what it is, and its default."""
    lines = (f"  {name:22} {known[name][1]} ({known[name][0]})" for name in names)
    return [textwrap.fill(line, WIDTH, subsequent_indent=" " * 25) for line in lines]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _explained(options: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    """(option, (its default, its first sentence)) of a dataclass and of the dataclasses in it."""
    said = _documented(type(options))
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            for name, explained in _explained(value):
                yield f"--{field.name}.{name[2:]}", explained
        elif field.name in said:
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield _flag(field.name), (shown, said[field.name].partition(". ")[0].rstrip("."))


def _documented(kind: type) -> dict[str, str]:
    """{field: the text below it} of a dataclass and of those it inherits from."""
    found = {}
    for one in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found
