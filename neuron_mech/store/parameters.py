"""The variables of a run's network: from its newest checkpoint, or from an export of the run.

An export has them in one NPZ file beside the results, each array named by its path, such as
`variables/params/logits/bias`. A run's directory with this file is an export: it has no checkpoint to continue from,
and nothing is trained in it.
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
    """A network's variables, and how far it was trained."""

    variables: dict[str, Any]
    """What `model.apply` takes: nested dicts of host arrays; empty where no checkpoint was saved."""
    step: int
    """Number of training steps done."""
    steps: int
    """Number of training steps of the whole run; 0 where no checkpoint was saved."""
    damaged: tuple[str, ...] = ()
    """One line for each newer checkpoint that does not verify."""


def exported(directory: Path) -> bool:
    """Whether a directory is an unpacked export of a run, for all processes alike."""
    return store.exists(directory / FILE)


def newest(directory: Path) -> Parameters:
    """The parameters of the run in `directory`, from its newest checkpoint that verifies or from its export.

    Needs neither the data set nor a device, and changes nothing. Raises RunError where no checkpoint verifies, and
    InputError where an export's file is damaged.
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
    """The part of a run's state (`planning.RunState`) with the variables, the step, and the losses."""
    kept = {name: state["train"][name] for name in ("params", "statistics", "step")}
    return {"train": kept, "history": {"loss": state["history"]["loss"]}}


def to_bytes(found: Parameters) -> bytes:
    """The NPZ file of an export, as bytes. The same parameters give the same bytes."""
    arrays = traverse_util.flatten_dict({"variables": found.variables}, sep="/")
    content = io.BytesIO()
    np.savez(content, **arrays, step=found.step, steps=found.steps)
    return content.getvalue()


def read(directory: Path) -> Parameters:
    """The parameters in an export that is unpacked in `directory`, in every process.

    Raises InputError where the file is missing or damaged.
    """
    path = directory / FILE
    try:
        with np.load(io.BytesIO(processes.broadcast(path.read_bytes)), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        step, steps = (int(arrays.pop(name)) for name in ("step", "steps"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error}): unpack the export again") from None
    return Parameters(traverse_util.unflatten_dict(arrays, sep="/").get("variables", {}), step, steps)
