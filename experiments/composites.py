"""Figures 1, 3, 4 and 5 of several networks in one, as the paper shows them, from the run directories given.

    python -m experiments.composites runs/mnist-relu runs/mnist-sigmoid runs/cifar10-relu --into runs

Writes figures/composite_figure1 and so on, as PNG, SVG and PDF, into the directory that --into names. A run that lacks
a result file is left out of its figure, with a line.
"""

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.command_line import entry_point
from experiments.command_line.arguments import ask
from neuron_mech import store
from neuron_mech.errors import InputError, harmless
from neuron_mech.paper import figures


@dataclass(frozen=True)
class CompositeOptions:
    """Options of this command, after the runs' directories."""

    into: Path = Path("runs")
    """Directory in whose folder figures/ they are written."""


def composites(directories: list[Path], into: Path) -> list[Path]:
    """Write every composite figure that has a run with its result file; returns the files.

    Raises InputError where there is none.
    """
    for directory in directories:
        store.read_config(directory)
    written: list[Path] = []
    for kind, (file, _) in figures.COMPOSITES.items():
        found = {}
        for directory in directories:
            if store.exists(directory / file):
                found[harmless(directory.resolve().name)] = store.read_dataset(directory / file)
            else:
                print(f"left out of {kind}: {directory} has no {file}", file=sys.stderr)
        if found:
            written += figures.write_figure(into, f"composite_{kind}", figures.composite(kind, found))
    if not written:
        raise InputError("no run has a result file to draw: run `python -m experiments.reproduce PRESET` first")
    return written


@entry_point
def main() -> None:
    """The command line: RUN_DIR ... [--into DIR]."""
    directories = list(itertools.takewhile(lambda argument: not argument.startswith("-"), sys.argv[1:]))
    rest = sys.argv[1 + len(directories) :] if directories else ["--help"]
    options = ask(CompositeOptions, CompositeOptions(), rest, "composites RUN_DIR ...", __doc__ or "")
    for path in composites([Path(name) for name in directories], options.into):
        print(path)


if __name__ == "__main__":
    main()
