"""Figures as files."""

from functools import partial
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from neuron_mech.cluster import processes
from neuron_mech.paper.figures.styles import style
from neuron_mech.store import write_result

METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
"""Metadata that are left out of the files, so that the same figure gives the same bytes."""


def write_figure(directory: Path, name: str, figure: Figure) -> list[Path]:
    """Write a figure as `figures/NAME.png`, `.svg` and `.pdf` in a run's directory. The same figure, the same bytes."""
    paths = [directory / "figures" / f"{name}{suffix}" for suffix in METADATA]
    if processes.first():
        with style(), mpl.rc_context({"figure.constrained_layout.use": False}):
            if engine := figure.get_layout_engine():
                for _ in range(2):  # a second layout pass, for tick labels that the first one changed
                    engine.execute(figure)
            # A pass takes as long as drawing, and with an engine, be it "none", each file would begin with one.
            figure.set_layout_engine(None)
            for path in paths:
                write_result(path, partial(figure.savefig, metadata=METADATA[path.suffix]))
    return paths
