"""Neurons while they learn (figures 2, 6 and 7): a category's values through training, one neuron and all of them."""

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from neuron_mech.paper.figures.styles import CONTROLS, HIGH, LOW, MEASURED, NEUTRAL, PALE, PICKED, style

BINS = 40
MOMENTS = (0, 0.02, 0.1, 0.4, 1.0)
"""Columns of a figure, as shares of training: denser at the start, where more happens."""

SCALE = "heights: share of the fullest bin of each panel; the outermost bins hold all that lies beyond"
"""A note on the figure, needed to compare its panels."""

SIDE_BY_SIDE = 4
"""Largest number of sites in a row."""

_PARTITION_COLORS = (MEASURED, *CONTROLS[:2])
_PART_COLORS = ("#C4C4C4", "#8E8E8E", MEASURED, PALE)


class Categories(NamedTuple):
    """The samples of one neuron: the category of each (1 low, -1 high), and whether it is drawn in yellow."""

    category: Int[np.ndarray, " samples"]
    highest: Bool[np.ndarray, " samples"]


class CategoryHistogram:
    """Histograms of one neuron's values in an Axes: low, high, and in yellow the finally highest of the high ones.

    Heights are relative to the highest bin, so that narrow and wide distributions can be read in one row.
    """

    def __init__(self, axes: Axes, samples: Categories, edges: Float[np.ndarray, " edges"]):
        self.samples, self.edges = samples, edges
        blank = np.zeros(len(edges) - 1)
        fills: tuple[tuple[str, float], ...] = ((LOW, 0.5), (HIGH, 0.5), (PICKED, 1.0))
        self.patches: list[StepPatch] = [
            axes.stairs(blank, edges, fill=True, color=color, alpha=alpha, zorder=order)
            for order, (color, alpha) in enumerate(fills)
        ]
        self.patches += [axes.stairs(blank, edges, color=color, linewidth=0.8, zorder=3) for color in (LOW, HIGH)]
        axes.axvline(0, color=NEUTRAL, linewidth=0.6, linestyle=":", zorder=0)
        axes.set(ylim=(0, 1.2), yticks=[], xlim=(edges[0], edges[-1]))

    def show(self, values: Float[np.ndarray, " samples"]) -> None:
        """Draw these values. Those beyond the edges are counted in the outermost bins."""
        inside = np.clip(values, self.edges[0], self.edges[-1])
        low, high, highest = (
            np.histogram(inside[which], self.edges)[0].astype(float)
            for which in (self.samples.category == 1, self.samples.category == -1, self.samples.highest)
        )
        peak = max(low.max(), high.max(), 1.0)
        for patch, heights in zip(self.patches, (low, high, highest, low, high), strict=True):
            patch.set_data(heights / peak)


def handles() -> list[mpl.patches.Patch]:
    """Legend entries for `CategoryHistogram`."""
    return [
        mpl.patches.Patch(facecolor=LOW, alpha=0.6, label="low: should fall"),
        mpl.patches.Patch(facecolor=HIGH, alpha=0.6, label="high: should rise"),
        mpl.patches.Patch(facecolor=PICKED, edgecolor=HIGH, label="the tenth of high that ends highest"),
    ]


def value_edges(values: Float[np.ndarray, "recordings samples"]) -> Float[np.ndarray, " edges"]:
    """Edges of BINS bins from the 0.1th to the 99.9th percentile of a neuron's values, over all recordings."""
    lowest, highest = np.quantile(values, 0.001, axis=1).min(), np.quantile(values, 0.999, axis=1).max()
    margin = 0.02 * (highest - lowest) + 1e-9
    return np.linspace(lowest - margin, highest + margin, BINS + 1)


def watched(found: xr.Dataset, site: str) -> xr.Dataset:
    """The part of learning_dynamics.nc about a site's closely watched neurons, on the samples recorded at the site.

    Its dimensions are `close_epoch`, `close_sample` and `close_neuron_index`, the neurons' indices within the site.
    """
    names = ["pre_activation", "category", "finally_highest", "highest_rank", "watched_auc"]
    at = found[names].sel(close_neuron_site=site)
    return at.dropna("close_sample", how="all", subset=["pre_activation"])


def samples_of(at: xr.Dataset, index: int) -> Categories:
    """The samples of neuron number `index` of those `watched`."""
    one = at.isel(close_neuron_index=index)
    return Categories(one.category.values, one.finally_highest.values)


def dynamics(found: xr.Dataset, rows: list[tuple[str, int]]) -> Figure:
    """Figures 2, 6 and 7: a row for each neuron of `rows`, a column for each moment of training.

    A panel holds histograms of the neuron's pre-activations, of its low and its high samples. The categories and the
    samples in yellow are those at the end of training, the same samples in every column.

    Arguments:
        found: learning_dynamics.nc, or a recorder's `dynamics()`: `pre_activation(close_epoch, close_sample,
            close_neuron)`, NaN where not recorded, `category` (1 low, -1 high, 0 none) and
            `finally_highest(close_sample, close_neuron)`, `watched_auc` and `highest_rank(close_epoch, close_neuron)`,
            and the attribute `epochs`.
        rows: of (site, number among the site's watched neurons, from 0), one at least.

    ```python
    found = neuron_mech.load("runs/digits")["learning_dynamics"].to_dataset()
    figures.dynamics(found, [("dense1", 0), ("dense2", 0)]).savefig("figure2.png")
    ```
    """
    epochs = found.close_epoch.values
    wanted = found.attrs["epochs"] * np.array(MOMENTS)
    moments = sorted({int(np.abs(epochs - epoch).argmin()) for epoch in wanted})
    with style():
        figure = Figure(figsize=(7.2, 1.15 * len(rows) + 0.85))
        panels = figure.subplots(len(rows), len(moments), squeeze=False)
        for row, (site, index) in enumerate(rows):
            at = watched(found, site)
            one = at.isel(close_neuron_index=index)
            values, auc = one.pre_activation.values, one.watched_auc.values
            samples, edges = samples_of(at, index), value_edges(values[moments])
            name = f"{found.label.sel(site=site).item()}\nneuron {int(one.close_neuron_index)}"
            panels[row, 0].set_ylabel(name, fontsize=8)
            for column, moment in enumerate(moments):
                axes = panels[row, column]
                CategoryHistogram(axes, samples, edges).show(values[moment])
                axes.tick_params(labelsize=7)
                axes.text(0.97, 0.97, f"AUC {auc[moment]:.2f}", transform=axes.transAxes, ha="right", va="top", size=7)
                if row == len(rows) - 1:
                    axes.set_xlabel("pre-activation", fontsize=8)
                if row == 0:
                    epoch = f"{epochs[moment]:.{0 if epochs[moment] >= 0.95 else 1}f}"
                    axes.set_title("start" if moment == 0 else f"{_time(found)} {epoch}", fontsize=8.5)
        figure.legend(
            handles=handles(), loc="outside lower center", ncols=3, frameon=False, title=SCALE, title_fontsize=7
        )
    return figure


def _time(found: xr.Dataset) -> str:
    """The unit of time: epochs, or recordings for a user's own loop."""
    return str(found.attrs.get("time", "epoch"))


def separation(found: xr.Dataset) -> Figure:
    """All neurons of each site: separation and overlap of the categories over training, and parts of the change.

    A column a site, at most SIDE_BY_SIDE in a row. Lines are medians over neurons, bands their quartiles, parts means.

    `found` is learning_dynamics.nc, or a recorder's `dynamics()`: `auc` and `overlap(partition, wide_epoch, neuron)`,
    `change(wide_epoch, part, neuron)` and `variance(wide_epoch, variance_part, neuron)`, shares, and the attribute
    `epochs`, where time ends. Partitions are own, another neuron's, and dealt at random.

    ```python
    figures.separation(neuron_mech.load("runs/digits")["learning_dynamics"].to_dataset())
    ```
    """
    with style():
        names = [str(name) for name in found.site.values]
        columns = min(len(names), SIDE_BY_SIDE)
        bands = -(-len(names) // columns)
        figure = Figure(figsize=(2.9 * columns + 2.2, 8.4 * bands))
        panels = figure.subplots(4 * bands, columns, squeeze=False, sharex=True, sharey="row")
        epochs = found.wide_epoch.values
        for index, name in enumerate(names):
            at = found.sel(site=name, neuron_site=name)
            band, column = divmod(index, columns)
            top, middle, change, variance = panels[4 * band : 4 * band + 4, column]
            top.set_title(f"{at.label.item()}, {at.sizes['neuron_index']} neurons")
            for axes, variable in ((top, "auc"), (middle, "overlap")):
                for which, color in zip(found.partition.values, _PARTITION_COLORS, strict=True):
                    curves = at[variable].sel(partition=which)
                    lower, median, upper = curves.quantile([0.25, 0.5, 0.75], "neuron_index").values
                    axes.plot(epochs, median, color=color, lw=2 if which == "own" else 1, label=_WHOSE[str(which)])
                    axes.fill_between(epochs, lower, upper, color=color, alpha=0.2, lw=0)
            for axes, variable, colors in ((change, "change", _PART_COLORS), (variance, "variance", _PART_COLORS[1:])):
                shares = at[variable].mean("neuron_index")
                parts = shares[shares.dims[1]].values
                axes.stackplot(epochs[1:], shares.values.T[:, 1:], colors=colors, labels=parts)
                axes.set_ylim(0, 1)
            variance.set(xlim=(0, found.attrs["epochs"]), xlabel=_time(found))
            variance.tick_params(labelbottom=True)
        for top, middle, change, variance in panels[:, 0].reshape(bands, 4):
            top.set_ylabel("separation of low and high\n(AUC)")
            middle.set_ylabel("overlap of low and high")
            change.set_ylabel("mean squared change\nsince the start, by part")
            variance.set_ylabel("variance over samples,\nby what explains it")
            top.set_ylim(0.3, 1)
            middle.set_ylim(0, 1.02)
        for axes in panels[-4:, (len(names) - 1) % columns + 1 :].ravel():
            axes.set_visible(False)
        for axes in panels[1:4, -1]:
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


_WHOSE = {
    "own": "the neuron's own categories",
    "another neuron's": "another neuron's categories",
    "dealt at random": "categories dealt at random",
}


def all_neurons(found: xr.Dataset, site: str) -> Figure:
    """Histograms over all neurons of a site: low share, constancy, flips, and separation of the categories.

    Lines mark medians; neurons without a number (NaN) are left out. The separation is that of the first and of the last
    recording kept.

    `found` is learning_dynamics.nc, or a recorder's `dynamics()`: `neuron_low_share`, `neuron_constancy` and
    `neuron_flips(neuron)`, shares, and `auc(partition, wide_epoch, neuron)` with the partition own.

    ```python
    figures.all_neurons(neuron_mech.load("runs/digits")["learning_dynamics"].to_dataset(), "dense2")
    ```
    """
    at = found.sel(site=site, neuron_site=site)
    auc = at.auc.sel(partition="own")
    percent = np.linspace(0, 100, 41).tolist()
    with style():
        figure = Figure(figsize=(7.2, 4.4))
        figure.suptitle(f"all {at.sizes['neuron_index']} neurons of {at.label.item()}", fontsize=9.5)
        (size, constant), (flips, apart) = figure.subplots(2, 2)
        for axes, values, name, bins in (
            (size, 100 * at.neuron_low_share, "samples in the low category (%)", percent),
            (constant, 100 * at.neuron_constancy, "constant signs (%)", percent),
            (flips, 100 * at.neuron_flips, "sign flips per recording (%)", 40),
        ):
            _distribution(axes, values.values, bins, MEASURED)
            axes.set_xlabel(name)
        bins = np.linspace(0, 1, 51).tolist()
        for moment, color, name in ((0, CONTROLS[0], "start"), (-1, MEASURED, "end")):
            _distribution(apart, auc.isel(wide_epoch=moment).values, bins, color, name)
        apart.set_xlabel("separation of low and high (AUC)")
        apart.set_xlim(float(np.floor(10 * np.nanmin(auc.isel(wide_epoch=[0, -1]))) / 10), 1)
        apart.legend(frameon=False, loc="upper left", ncols=2)
        for axes in (size, constant, flips, apart):
            axes.set_ylabel("neurons")
        for axes in (size, constant):
            axes.set_xlim(0, 100)
    return figure


def _distribution(axes: Axes, values: np.ndarray, bins: list[float] | int, color: str, name: str = "") -> None:
    """A histogram with a line at its median, and room above for text."""
    median = float(np.nanmedian(values))
    axes.hist(values[~np.isnan(values)], bins=bins, color=color, alpha=0.75, label=f"{name}, median {median:.2f}")
    axes.axvline(median, 0, 0.75, color="black", linewidth=0.9)
    axes.autoscale(axis="y")
    axes.set_ylim(0, axes.dataLim.ymax / 0.75)
    if not name:
        axes.annotate(
            f"median {median:.3g}", (median, 0.77), xycoords=("data", "axes fraction"), ha="center", fontsize=8
        )
