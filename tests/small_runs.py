"""A shrunken real preset, run in this process or as a command in one of its own."""

import hashlib
from dataclasses import replace
from pathlib import Path

from forking import Forked
from neuron_mech import runs, store
from neuron_mech.config import PRESETS, Config, Model

SMALL = replace(PRESETS["digits"], train=replace(PRESETS["digits"].train, epochs=4), model=Model(width=1 / 8))
ARGUMENTS = ("digits", "--train.epochs", "4", "--model.width", "0.125")
REPRODUCED = (
    *("digits", "--train.epochs", "3", "--model.width", "0.125"),
    *("--watch.recordings", "10", "--watch.wide-recordings", "4", "--watch.wide-samples", "200"),
    *("--watch.neurons", "1", "--watch.named", "dense2:9"),
)
"""For what needs every experiment's results: the arguments of `experiments.reproduce`."""


def finished(config: Config, directory: Path):
    with store.opened(directory, config):
        return runs.run(config, directory)


def digest(directory: Path) -> dict[str, str]:
    """Every result file's SHA-256."""
    files = [*directory.glob("*.nc"), *directory.glob("figures/*.png"), *directory.glob("trajectories/*.npy")]
    return {str(f.relative_to(directory)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


def command(directory: Path, *more: str, name: str = "gradient_signs") -> Forked:
    return Forked("-m", f"experiments.{name}", *ARGUMENTS, "--run-dir", directory, *more)
