"""Options of experiments that have no config: the numbers that they may have, and that a directory holds one run."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neuron_mech.config import WHOLE, Limits
from neuron_mech.errors import InputError, first_line
from neuron_mech.store import files

COUNT = Limits(1, 2**31 - 1, WHOLE)
"""Of numbers for which no other limits are given."""


def check(options: Any, limits: Mapping[str, Limits]) -> None:
    """Raise InputError for a number that no run can have; `options` is a dataclass, `limits` are by field."""
    for name, value in asdict(options).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            limits.get(name, COUNT).check(f"--{name.replace('_', '-')}", value)


def agree(directory: Path, chosen: Mapping[str, Any]) -> None:
    """Store what was chosen in options.json. Raises InputError where the directory holds a run of other choices."""
    here = json.loads(json.dumps(chosen))  # a tuple comes back from the file as a list
    path = directory / "options.json"
    if not path.exists():
        files.write_text(path, json.dumps(here, indent=2) + "\n")
    try:
        before = dict(files.read_json(path))
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}): name another directory") from None
    if changed := [f"{name}: {before.get(name)} / {here[name]}" for name in here if before.get(name) != here[name]]:
        raise InputError(
            f"--run-dir {directory} holds another run (there / here): {'; '.join(changed)}: name another directory"
        )
