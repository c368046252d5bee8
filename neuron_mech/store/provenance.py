"""Where results come from: machine, versions, and the seconds each step took. Kept apart from the results themselves.

Result files hold no time and no host, so that a resumed run's are the undisturbed run's; provenance.json holds both.
"""

import importlib.metadata
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from neuron_mech import store
from neuron_mech.errors import Interrupted
from neuron_mech.store import files

PACKAGES = ("neuron_mech", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def machine() -> dict[str, Any]:
    """Device, processor, cores, and versions of what computes."""
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind}" if device.platform != "cpu" else _processor(),
        "platform": device.platform,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
    }


def read(directory: Path) -> dict[str, Any]:
    """Machine, versions and seconds of a run and its repetitions with other seeds, which add up; {} where unknown."""
    found = [_stored(place) for place in store.seed_directories(directory)]
    seconds: Counter[str] = Counter()
    for one in found:
        seconds.update(one.get("seconds", {}))
    known = next((one for one in found if one), {})
    return known and {**known, "seconds": {step: round(took, 1) for step, took in seconds.items()}}


@contextmanager
def timed(directory: Path, step: str) -> Iterator[None]:
    """Add the seconds of what is done inside to those of earlier calls, and say on what machine.

    Seconds of steps timed inside it are theirs alone. What is stopped by a signal counts, what fails does not.
    """
    if not _stored(directory):
        _add(directory, step, 0.0)  # on what machine it began, should it be killed
    began, done = time.monotonic(), False
    _inside.append(0.0)
    try:
        yield
        done = True
    except Interrupted:
        done = True
        raise
    finally:
        took, others = time.monotonic() - began, _inside.pop()
        if _inside:
            _inside[-1] += took
        if done:
            _add(directory, step, took - others)


def others(directory: Path) -> list[str]:
    """What of the machine is other than what the run in `directory` was begun on, each as `name: there / here`.

    Bits of a run that goes on are those of one left alone only where this is empty.
    """

    def flat(found: dict[str, Any]) -> dict[str, Any]:
        versions = found.get("versions", {})
        return {"device": found.get("device")} | {name: versions.get(name) for name in ("jax", "jaxlib")}

    there, here = flat(_stored(directory)), flat(machine())
    return [f"{name}: {was} / {here[name]}" for name, was in there.items() if was is not None and was != here[name]]


_inside: list[float] = []
"""Of every step that is under way, the outermost first: seconds of the steps that were timed inside it."""


def _add(directory: Path, step: str, seconds: float) -> None:
    steps = _stored(directory).get("seconds", {})
    steps[step] = round(steps.get(step, 0.0) + seconds, 1)
    text = json.dumps({**machine(), "seconds": steps}, indent=2) + "\n"
    files.write_text(directory / "provenance.json", text)


def _stored(directory: Path) -> dict[str, Any]:
    """provenance.json, or {} where it is missing or cannot be read: nothing depends on it."""
    try:
        found = files.read_json(directory / "provenance.json")
    except (OSError, ValueError):
        return {}
    try:
        complete = {"device", "cores"} <= set(found) and all(map(str.isprintable, found["versions"].values()))
        return found if complete and sum(found["seconds"].values()) >= 0 else {}
    except (AttributeError, KeyError, TypeError):
        return {}


def _version(name: str) -> str:
    """A package's version; a plain source tree on the path has none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
