"""Figures as files."""

from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from neuron_mech.cluster import processes
from neuron_mech.paper.figures.styles import style
from neuron_mech.store import write_result


def write_figure(directory: Path, name: str, figure: Figure) -> list[Path]:
    """Write a figure as `figures/NAME.png` and `.svg` in a run's directory; the same figure gives the same bytes."""
    paths = [directory / "figures" / f"{name}{suffix}" for suffix in (".png", ".svg")]
    if processes.first():
        with style():
            figure.draw_without_rendering()  # a second layout pass, for tick labels that the first one changed
            for path in paths:
                metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
                write_result(path, partial(figure.savefig, metadata=metadata))
    return paths
