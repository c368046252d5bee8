"""Keras's ResNet50 weights for ImageNet, kept beside the data sets as a checkpoint with checksums."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuron_mech.errors import InputError, RunError, first_line
from neuron_mech.store.checkpoints import Checkpoints
from neuron_mech.training import datasets
from neuron_mech.training.models import ResNet50
from neuron_mech.training.models.resnet import shapes

NETWORK = ResNet50(variant="keras3", classes=1000)
"""Keras's network. Its weights have the same shapes in every version of Keras."""


def save(variables: Mapping[str, Any], data_dir: Path | None = None) -> None:
    """Save Keras's weights, given as variables of NETWORK, replacing any before, then read them back to verify them.

    Raises RunError where they cannot be written.
    """
    where = directory(data_dir)
    shutil.rmtree(where, ignore_errors=True)
    try:
        with Checkpoints(where) as saves:
            saves.save(0, dict(variables))
    except OSError as error:
        raise RunError(f"cannot write to {where} ({first_line(error)}): name another --data-dir") from error
    restore(NETWORK, data_dir)


def restore(model: ResNet50, data_dir: Path | None = None) -> dict[str, Any]:
    """The variables that `save` stored, verified by their checksums.

    Raises InputError, naming the command that prepares them, where there are none or they do not fit `model`, and
    RunError where they do not verify.
    """
    where, expected = directory(data_dir), shapes(NETWORK)
    if shapes(model) != expected:
        raise InputError(
            f"model.weights is keras, but the network has {model.classes} classes and {model.neurons} neurons by "
            f"stage, Keras's {NETWORK.classes} and {NETWORK.neurons}: use data.name imagenet2012 and model.width 1, or "
            "set model.weights to random"
        )
    found = None
    if where.is_dir():
        with Checkpoints(where) as saves:
            found = saves.restore(expected)
    if found is None:
        parent = where.parent.parent
        raise InputError(
            f"--data-dir {parent} has no weights of Keras's ResNet50: run `python -m experiments.prepare_data "
            f"imagenet-resnet50 --data-dir {parent}` (with --weights FILE where there is no network), or set "
            "model.weights to random"
        )
    return found.state


def directory(data_dir: Path | None) -> Path:
    """The directory of the checkpoint, beside the data sets."""
    return datasets.directory(data_dir) / "keras-resnet50" / "checkpoints"
