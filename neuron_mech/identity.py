"""What a run must find again as it was: its config, its data, and the settings of the process that decide numbers.

A name and a path say none of this. So a run's facts are stored in its directory (`results.bind`) and in every
checkpoint, and whatever goes on from either is refused under others, with a line that says which differ.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neuron_mech import presets, settings
from neuron_mech.datasets import Dataset, Samples, Stream
from neuron_mech.errors import InputError
from neuron_mech.presets import Config

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
    return found | settings.here()


def of_config(config: Config) -> dict[str, Any]:
    """Every field of a config by name, as JSON has it."""
    fields = presets.fields(config).items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields}


def changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The facts that are other here, each as `name: there / here`; one that was not stored yet is taken to be the same.

    Of a fingerprint, the first digits are shown.
    """

    def shown(value: Any) -> str:
        return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else repr(value)

    return [f"{name}: {shown(of)} / {shown(here.get(name))}" for name, of in there.items() if of != here.get(name)]


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


def digest(array: Any) -> str:
    """SHA-256 over dtype, shape and bytes of an array."""
    here = np.ascontiguousarray(array)
    found = hashlib.sha256(f"{here.dtype}{here.shape}".encode() + b"\0")
    found.update(here.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


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
