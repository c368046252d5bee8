"""The variables of a run's network by themselves: from its newest checkpoint, or as an export brought them along.

Exported, they are one NPZ file beside the results, with an array for each, named by its path, such as
`variables/params/logits/bias`. A run's directory that holds it is an export: there is no state to go on from, and
nothing is trained in it.
"""

import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from neuron_mech import store
from neuron_mech.cluster import processes
from neuron_mech.errors import InputError
from neuron_mech.store import checkpoints

FILE = "parameters.npz"


class Parameters(NamedTuple):
    """A network's variables, as far as it was trained."""

    variables: dict[str, Any]
    """What `model.apply` takes: nested dicts of the host's arrays; empty where no checkpoint was saved."""
    step: int
    """Training steps done."""
    steps: int
    """Those of the whole run; 0 where no checkpoint was saved."""
    damaged: tuple[str, ...] = ()
    """One line for each newer checkpoint that does not verify."""


def exported(directory: Path) -> bool:
    """Whether a directory is an unpacked export of a run. Of several processes, 0 looks."""
    return store.exists(directory / FILE)


def newest(directory: Path) -> Parameters:
    """The parameters of the run in `directory`: of its newest checkpoint that verifies, or as an export has them.

    Neither the data set nor a device is needed, and nothing is changed. Raises RunError where no checkpoint verifies,
    and InputError where an export's file is damaged.
    """
    if exported(directory):
        return read(directory)
    found = checkpoints.look(directory / "checkpoints", _part)
    if found is None:
        return Parameters({}, 0, 0)
    train = found.state["train"]
    variables = {"params": train["params"], **train["statistics"]}
    return Parameters(variables, int(train["step"]), found.state["history"]["loss"].size, tuple(found.damaged))


def _part(state: dict[str, Any]) -> dict[str, Any]:
    """Of a run's state (`planning.RunState`), the variables and how far they were trained."""
    kept = {name: state["train"][name] for name in ("params", "statistics", "step")}
    return {"train": kept, "history": {"loss": state["history"]["loss"]}}


def to_bytes(found: Parameters) -> bytes:
    """The content of an export's file: NPZ. The same parameters give the same bytes."""
    arrays = traverse_util.flatten_dict({"variables": found.variables}, sep="/")
    content = io.BytesIO()
    np.savez(content, **arrays, step=found.step, steps=found.steps)
    return content.getvalue()


def read(directory: Path) -> Parameters:
    """What an export brought along, unpacked in `directory`. Raises InputError where it is missing or damaged.

    Of several processes, 0 reads it and tells the others.
    """
    path = directory / FILE
    try:
        with np.load(io.BytesIO(processes.broadcast(path.read_bytes)), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        step, steps = (int(arrays.pop(name)) for name in ("step", "steps"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error}): unpack the export again") from None
    return Parameters(traverse_util.unflatten_dict(arrays, sep="/").get("variables", {}), step, steps)
