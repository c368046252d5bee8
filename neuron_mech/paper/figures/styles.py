"""One visual language for all figures: one colour, one meaning.

Okabe and Ito's colours, which readers with any colour vision tell apart: blue where the derivative is negative (*high*:
the activation should rise), vermilion where it is positive (*low*), yellow for the samples a figure picks out. Green is
what a figure is about, the trained network; its controls are purple and grey, the network as it is, black. Sites are
shades from dark to light, from the input to the output.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HIGH, LOW, PICKED, NEUTRAL = "#0072B2", "#D55E00", "#F0E442", "#7F7F7F"
MEASURED = "#009E73"
CONTROLS = ("#CC79A7", NEUTRAL, "#E2B6CF", "#4D4D4D", "#B3B3B3", "#8C5A78")
PALE = "#E3E3E3"

_STYLE: dict[str, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-3, 4),
    "svg.hashsalt": "neuron_mech",  # the same figure gives the same file
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """The project's matplotlib settings, for the time of a `with` block: for figures of one's own beside these.

    >>> import matplotlib
    >>> from neuron_mech.paper import figures
    >>> with figures.style():
    ...     matplotlib.rcParams["font.size"], matplotlib.rcParams["axes.spines.top"]
    (9.0, False)
    """
    with mpl.rc_context(cast(Any, _STYLE)):
        yield


def site_color(index: int, count: int) -> str:
    """The colour of site number `index` of `count`, counted from the input."""
    return mpl.colors.to_hex(mpl.colormaps["cividis"](0.85 * index / max(count - 1, 1)))


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """A legend below all panels with the labelled artists of one of them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def bar_places(groups: int, index: int, bars: int, width: float) -> np.ndarray:
    """Where bar number `index` of each group's `bars` stands, the groups at 0, 1 ... and `width` wide."""
    return np.arange(groups) + (index - (bars - 1) / 2) * width / bars


def site_panels(names: np.ndarray, titles: np.ndarray) -> tuple[Figure, list[tuple[str, Axes]]]:
    """A figure with a titled panel for each site, and [(site, its panel)]."""
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.6 * rows + 0.5))
    panels = [(str(name), figure.add_subplot(rows, columns, index + 1)) for index, name in enumerate(names)]
    for (_, axes), title in zip(panels, titles, strict=True):
        axes.set_title(str(title))
    return figure, panels
