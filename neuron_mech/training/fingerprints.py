"""The facts that identify a run (see `store.identity`), with fingerprints of its data."""

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
"""A stream whose files have at most this many bytes together is read whole for its fingerprint."""

_PLACES, _PLACE = 16, 2**16
"""Of a larger stream, each file is read at _PLACES places of _PLACE bytes each, from its start to its end."""


def of(config: Config, dataset: Dataset) -> dict[str, Any]:
    """The facts of a run by name, for JSON: the config's fields, fingerprints of the data, and settings of JAX.

    `dataset` is as loaded, before its labels are permuted: that follows from the seed and the settings.
    """
    found = of_config(config) | {"classes": dataset.classes}
    for part, samples in (("training", dataset.train), ("test", dataset.test)):
        found |= {f"{part} {what}": value for what, value in fingerprints(samples).items()}
    return found | jax_settings.here()


def fingerprints(samples: Samples | Stream) -> dict[str, str]:
    """SHA-256 of the images and of the labels; of a stream, of its files (see `WHOLE`) and of the rows that are read.

    Takes about a second for a gigabyte. Raises InputError where a file cannot be read.
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
