"""Several networks in one figure, as the paper has them: a row a network, a column a site (figures 1, 3, 4 and 5)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuron_mech.paper.figures.codes import binarization_panel, quantization_panel
from neuron_mech.paper.figures.signs import category_patches, histogram_panel
from neuron_mech.paper.figures.styles import legend_below, style


class Composite(NamedTuple):
    """One of the paper's figures: the result file it is drawn from, and what draws a panel of it."""

    file: str
    panel: Callable[[Axes, xr.Dataset, str], None]


COMPOSITES = {
    "figure1": Composite("gradient_signs.nc", partial(histogram_panel, one_neuron=True)),
    "figure5": Composite("gradient_signs.nc", histogram_panel),
    "figure3": Composite("quantization.nc", quantization_panel),
    "figure4": Composite("binarization.nc", binarization_panel),
}
"""The figures that the paper shows of all its networks at once."""


def composite(kind: str, networks: Mapping[str, xr.Dataset]) -> Figure:
    """Figure 1, 3, 4 or 5 of several networks: a row a network, its columns the sites from the input to the output.

    Arguments:
        kind: of COMPOSITES, figure1, figure3, figure4 or figure5; anything else is a KeyError.
        networks: {name: its dataset}, one at least, as `average_sign_histograms`, `quantization` or `binarization`
            takes it. Rows with fewer sites than others end early.

    ```python
    runs = {name: neuron_mech.load(f"runs/{name}") for name in ("mnist-relu", "mnist-sigmoid")}
    figures.composite("figure5", {name: run["gradient_signs"].to_dataset() for name, run in runs.items()})
    ```
    """
    columns = max(dataset.sizes["site"] for dataset in networks.values())
    with style():
        figure = Figure(figsize=(3.1 * columns, 2.5 * len(networks) + 0.5))
        panels = figure.subplots(len(networks), columns, squeeze=False)
        for row, (name, dataset) in zip(panels, networks.items(), strict=True):
            for axes, site in zip(row, dataset.site.values, strict=False):
                COMPOSITES[kind].panel(axes, dataset, str(site))
                if kind in ("figure3", "figure4"):
                    axes.set_title(str(dataset.label.sel(site=site).item()))
            for axes in row[dataset.sizes["site"] :]:
                axes.set_visible(False)
            row[0].set_ylabel(f"{name}\n{row[0].get_ylabel()}")
        if kind in ("figure1", "figure5"):
            figure.legend(handles=category_patches(), loc="outside lower center", ncols=2, frameon=False)
        else:
            legend_below(figure, panels[0, 0], 3)
    return figure
