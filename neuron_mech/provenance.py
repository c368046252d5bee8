"""Where results come from: machine, versions, and the seconds each step took. Kept apart from the results themselves.

Result files hold no time and no host, so that a resumed run's are the undisturbed run's; provenance.json holds both.
"""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax

from neuron_mech import results

PACKAGES = ("neuron_mech", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


def machine() -> dict[str, Any]:
    """Device, processor, cores, and versions of what computes."""
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind}" if device.platform != "cpu" else _processor(),
        "platform": device.platform,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def read(directory: Path) -> dict[str, Any]:
    """provenance.json, or {} where it is missing or cannot be read: nothing depends on it."""
    try:
        found = json.loads((directory / "provenance.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def add(directory: Path, step: str, seconds: float) -> None:
    """Add the seconds that a step took to those of earlier calls, and say on what machine."""
    found = read(directory)
    steps = found.get("seconds", {})
    steps[step] = round(steps.get(step, 0.0) + seconds, 1)
    text = json.dumps({**machine(), "seconds": steps}, indent=2) + "\n"
    results.write(directory / "provenance.json", lambda part: part.write_text(text))


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
