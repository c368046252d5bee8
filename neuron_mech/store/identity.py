"""What a run must find again as it was: its config, its data, and the settings of the process that decide numbers.

A name and a path say none of this. So a run's facts are stored in its directory (`store.bind`) and in every checkpoint,
and whatever goes on from either is refused under others, with a line that says which differ.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from neuron_mech.config import Config, fields


def of_config(config: Config) -> dict[str, Any]:
    """Every field of a config by name, as JSON has it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields(config).items()}


def changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The facts that are other here, each as `name: there / here`; one that was not stored yet is taken to be the same.

    Of a fingerprint, the first digits are shown.
    """

    def shown(value: Any) -> str:
        return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else repr(value)

    return [f"{name}: {shown(of)} / {shown(here.get(name))}" for name, of in there.items() if of != here.get(name)]


def digest(array: Any) -> str:
    """SHA-256 over dtype, shape and bytes of an array."""
    here = np.ascontiguousarray(array)
    found = hashlib.sha256(f"{here.dtype}{here.shape}".encode() + b"\0")
    found.update(here.reshape(-1).view(np.uint8).data)
    return found.hexdigest()
