"""The facts that identify a run: its config, fingerprints of its data, and the settings of JAX that change results.

They are stored in the run's directory (`store.bind`) and in every checkpoint. Continuing under different facts is
refused, with a line that names the differences.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from neuron_mech.config import Config, fields


def of_config(config: Config) -> dict[str, Any]:
    """Every field of a config by name, with lists instead of tuples, as in JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields(config).items()}


def changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The facts of `there` that differ `here`, each as `name: there / here`; facts that `there` lacks are not compared.

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
