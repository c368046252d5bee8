"""The command line: which steps, where, and for how long."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import experiments.full_scale
from experiments.command_line.arguments import ask, split_names
from experiments.full_scale.runner import Runner
from experiments.full_scale.steps import NAMES, Name, Table
from neuron_mech import store
from neuron_mech.cluster.stopping import stopping
from neuron_mech.errors import InputError, Interrupted, RunError


@dataclass(frozen=True)
class FullScaleOptions:
    """Options of this command, after the directory that is brought home."""

    minutes: float = 25.0
    """Minutes until everything is stopped, so that what was saved can be brought home."""
    steps: tuple[Name, ...] = NAMES
    """Which steps."""
    data_dir: Path | None = None
    """Directory of prepared data. None means TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    run_dir: Path = Path("runs")
    """Where the runs are, each in PRESET: keep it on a disk that outlives the machine, and they go on elsewhere."""
    rehearse: bool = False
    """All of it at a tiny size, on whatever device is there, in OUT/rehearsal and RUN_DIR/rehearsal."""


def main() -> None:
    """OUT [--minutes ...]."""
    out, options = parse(sys.argv[1:])
    run_dir = options.run_dir
    if options.rehearse:
        out, run_dir = out / "rehearsal", run_dir / "rehearsal"
    else:
        # A missing driver is an error at once, not a run on the CPU for days.
        os.environ.setdefault("JAX_PLATFORMS", "cuda")
    table = Table(out, run_dir, options.data_dir, options.rehearse).steps()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): name another directory") from None
    with store.held(run_dir), stopping() as received:
        runner = Runner(out, time.monotonic() + 60 * options.minutes, received)
        states = {name: runner(name, step) for name, step in table.items() if name in options.steps}
    if received:
        raise Interrupted(received[0], "stopped; the same command goes on from there")
    if failed := [name for name, state in states.items() if state == "failed"]:
        raise RunError(f"failed: {', '.join(failed)}: {out} holds their logs; the same command tries them again")


def parse(arguments: list[str]) -> tuple[Path, FullScaleOptions]:
    """(OUT, options). Raises InputError where they do not fit."""
    names, rest = split_names(arguments, 1)
    about = experiments.full_scale.__doc__ or ""
    options = ask(FullScaleOptions, FullScaleOptions(), rest, "full_scale OUT", about)
    if names[0].startswith("-"):
        raise InputError(f"no directory given: python -m experiments.full_scale OUT, but the first is {names[0]}")
    if not options.minutes > 0:
        raise InputError(f"--minutes is {options.minutes}: give a positive number")
    return Path(names[0]), options
