"""Networks that are not trained here: Keras's weights for ImageNet, kept beside the data as a verified checkpoint."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuron_mech import datasets
from neuron_mech.checkpoints import Checkpoints
from neuron_mech.errors import InputError
from neuron_mech.models import ResNet50
from neuron_mech.models.resnet import shapes


def save(variables: Mapping[str, Any], model: ResNet50, data_dir: Path | None = None) -> Path:
    """Keep the network's variables under `data_dir`, in the place of any before; returns where.

    They are read back and verified. Raises RunError where they cannot be written.
    """
    where = directory(data_dir)
    shutil.rmtree(where, ignore_errors=True)
    with Checkpoints(where) as saves:
        saves.save(0, dict(variables))
    restore(model, data_dir)
    return where


def restore(model: ResNet50, data_dir: Path | None = None) -> dict[str, Any]:
    """The variables that `save` kept, each array's checksum verified.

    Raises InputError, naming the command that prepares them, where there are none, RunError where they do not verify.
    """
    where = directory(data_dir)
    found = None
    if where.is_dir():
        with Checkpoints(where) as saves:
            found = saves.restore(shapes(model))
    if found is None:
        raise InputError(
            f"--data-dir {where.parent.parent} has no weights of Keras's ResNet50: run `python -m "
            f"experiments.prepare_data imagenet-resnet50 --data-dir {where.parent.parent}` (with --weights FILE where "
            "there is no network), or set model.weights to random"
        )
    return found.state


def directory(data_dir: Path | None) -> Path:
    """Where the checkpoint is, in a directory of its own beside the data sets."""
    return datasets.directory(data_dir) / "keras-resnet50" / "checkpoints"
