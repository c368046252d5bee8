"""Provenance of results: machine, versions, and each step's seconds and commits of the code, in provenance.json.

They are not in the result files, so that a resumed run gives the same bytes as an undisturbed one.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jax

from neuron_mech import store
from neuron_mech.errors import Interrupted
from neuron_mech.store import files

PACKAGES = ("neuron_mech", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def machine() -> dict[str, Any]:
    """Device, platform, number of cores, and versions of the main packages."""
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind}" if device.platform != "cpu" else _processor(),
        "platform": device.platform,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def read(directory: Path) -> dict[str, Any]:
    """Machine, versions, seconds and commits of a run, with its repetitions with other seeds; {} where unknown."""
    found = [_stored(place) for place in store.seed_directories(directory)]
    seconds: Counter[str] = Counter()
    commits: dict[str, list[str]] = {}
    for one in found:
        seconds.update(one.get("seconds", {}))
        for step, of in one.get("commits", {}).items():
            commits[step] = list(dict.fromkeys([*commits.get(step, []), *of]))
    known = next((one for one in found if one), {})
    took = {step: round(seconds, 1) for step, seconds in seconds.items()}
    return known and {**known, "seconds": took, **({"commits": commits} if commits else {})}


@cache
def commit() -> str | None:
    """The commit of this package's code, with a + where it was changed since; None outside a git checkout of it."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "neuron_mech", "experiments")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or another user's checkout
        return None


@contextmanager
def timed(directory: Path, step: str) -> Iterator[None]:
    """Add the seconds spent in the block to those of the step's earlier calls, and note the machine and the commit.

    Seconds of steps that are timed inside the block are not counted twice. A block that is stopped by a signal counts,
    one that fails does not.
    """
    if not _stored(directory):
        _add(directory, step, 0.0)  # notes the machine, in case the process is killed
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
    """Differences between this machine and the one that the run was begun on, each as `name: there / here`.

    Only where there are none does a resumed run give the same bits as an undisturbed one.
    """

    def flat(found: dict[str, Any]) -> dict[str, Any]:
        versions = found.get("versions", {})
        return {"device": found.get("device")} | {name: versions.get(name) for name in ("jax", "jaxlib")}

    there, here = flat(_stored(directory)), flat(machine())
    return [f"{name}: {was} / {here[name]}" for name, was in there.items() if was is not None and was != here[name]]


_inside: list[float] = []
"""For each step in progress, the outermost first: seconds of the steps that were timed inside it."""


def _add(directory: Path, step: str, seconds: float) -> None:
    before = _stored(directory)
    steps, commits = before.get("seconds", {}), before.get("commits", {})
    steps[step] = round(steps.get(step, 0.0) + seconds, 1)
    if here := commit():
        commits[step] = list(dict.fromkeys([*commits.get(step, []), here]))
    found = {**machine(), "seconds": steps, **({"commits": commits} if commits else {})}
    text = json.dumps(found, indent=2) + "\n"
    files.write_text(directory / "provenance.json", text)


def _stored(directory: Path) -> dict[str, Any]:
    """provenance.json, or {} where it is missing or cannot be read: no result depends on it."""
    try:
        found = files.read_json(directory / "provenance.json")
    except (OSError, ValueError):
        return {}
    try:
        complete = {"device", "cores"} <= set(found) and all(map(str.isprintable, found["versions"].values()))
        complete &= all(" ".join(of).isprintable() for of in found.get("commits", {}).values())
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
    """The processor's name, where the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
