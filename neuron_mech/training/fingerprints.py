"""The facts of a run that its data are part of; see `store.identity`."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from neuron_mech.cluster import jax_settings
from neuron_mech.config import Config
from neuron_mech.errors import InputError
from neuron_mech.store.identity import digest, of_config
from neuron_mech.training.datasets import Dataset, Samples, Stream

WHOLE = 2**30
"""Bytes of a stream's files up to which all of them are read for its fingerprint."""

_PLACES, _PLACE = 16, 2**16
"""Of larger files, so many places of so many bytes each are, the first and the last among them."""


def of(config: Config, dataset: Dataset) -> dict[str, Any]:
    """The facts of a run by name, as JSON has them: the config's fields, fingerprints of the data, and settings.

    `dataset` is as it was loaded: labels that are dealt at random follow from it, the seed and the settings.
    """
    found = of_config(config) | {"classes": dataset.classes}
    for part, samples in (("training", dataset.train), ("test", dataset.test)):
        found |= {f"{part} {what}": value for what, value in fingerprints(samples).items()}
    return found | jax_settings.here()


def fingerprints(samples: Samples | Stream) -> dict[str, str]:
    """SHA-256 over images and over labels; of a stream over its files (see `WHOLE`) and the rows that are read.

    A second for a gigabyte, about. Raises InputError where a file cannot be read.
    """
    if isinstance(samples, Samples):
        return {"images": digest(samples.images), "labels": digest(samples.labels)}
    try:
        return {"files": _of_files(samples.files), "rows": digest(samples.reader.ids)}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): prepare the data again") from None


def _of_files(files: tuple[Path, ...]) -> str:
    sizes = [path.stat().st_size for path in files]
    found = hashlib.sha256()
    for path, size in zip(files, sizes, strict=True):
        found.update(f"{path.name}:{size}\0".encode())
        with path.open("rb") as file:
            if sum(sizes) <= WHOLE:
                while block := file.read(2**20):
                    found.update(block)
                continue
            for place in np.linspace(0, max(size - _PLACE, 0), _PLACES):
                file.seek(int(place))
                found.update(file.read(_PLACE))
    return found.hexdigest()
