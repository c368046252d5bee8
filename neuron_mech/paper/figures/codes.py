"""Two values a neuron, and one window of its range (figures 3 and 4)."""

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuron_mech.paper.figures.styles import CONTROLS, MEASURED, NEUTRAL, legend_below, site_panels, style


def accuracy_name(top: int) -> str:
    """What accuracy is called where a label among the `top` largest outputs counts.

    >>> from neuron_mech.paper import figures
    >>> figures.accuracy_name(1), figures.accuracy_name(5)
    ('test accuracy', 'top-5 test accuracy')
    """
    return "test accuracy" if top == 1 else f"top-{top} test accuracy"


def _draw(axes: Axes, curves: Mapping[str, xr.DataArray], x: str) -> None:
    """Draw what is measured and its two controls, by label: means over seeds, and their range as a band.

    Places without a value are left out of the line.
    """
    looks = ((MEASURED, 2.0, "-"), (CONTROLS[0], 1.0, "-"), (CONTROLS[1], 1.0, "-."))
    for (label, by_seed), (color, width, line) in zip(curves.items(), looks, strict=True):
        of = by_seed.dropna(x, how="all")
        axes.plot(of[x], of.mean("seed"), label=label, color=color, lw=width, ls=line, marker=".")
        if of.sizes["seed"] > 1:
            axes.fill_between(of[x], of.min("seed"), of.max("seed"), color=color, alpha=0.2, lw=0)


def quantization(found: xr.Dataset) -> Figure:
    """Figure 3: accuracy with two values a neuron, by the threshold's percentile rank, and controls in lighter lines.

    A panel a site. Lines are means over seeds, bands their range. The dashed line is the network as it is; the vertical
    one marks the mean rank of 0, the diamond two values cut at 0.

    `found` is quantization.nc: `accuracy_by_seed`, `noise_accuracy_by_seed` and `permuted_accuracy_by_seed(seed, site,
    percentile_rank)`, `zero_rank_mean(site)`, a rank, `zero_threshold_accuracy(site)`, and the number
    `original_accuracy`. The attribute `top` says which accuracy it is, 1 where there is none.

    ```python
    figures.quantization(neuron_mech.load("runs/digits")["quantization"].to_dataset()).savefig("figure3.png")
    ```
    """
    return _by_site(found, quantization_panel)


def _by_site(found: xr.Dataset, panel: Callable[[Axes, xr.Dataset, str], None]) -> Figure:
    with style():
        figure, panels = site_panels(found.site.values, found.label.values)
        for name, axes in panels:
            panel(axes, found, name)
        legend_below(figure, panels[0][1], 3)
    return figure


def quantization_panel(axes: Axes, found: xr.Dataset, name: str) -> None:
    """Draw figure 3 of the site `name`."""
    at = found.sel(site=name)
    _frame(axes, at, "percentile rank used as threshold")
    axes.axvline(float(at.zero_rank_mean), color=NEUTRAL, linestyle=":", label="mean rank of 0")
    curves = {
        "two values": at.accuracy_by_seed,
        "noise of equal error": at.noise_accuracy_by_seed,
        "two values, dealt at random": at.permuted_accuracy_by_seed,
    }
    _draw(axes, curves, "percentile_rank")
    zero = (float(at.zero_rank_mean), float(at.zero_threshold_accuracy))
    axes.plot(*zero, "D", color="black", markersize=5, label="two values, cut at pre-activation 0")


def _frame(axes: Axes, at: xr.Dataset, xlabel: str) -> None:
    """What figures 3 and 4 have in common: the axes, and the unchanged network's accuracy as a dashed line."""
    axes.axhline(float(at.original_accuracy), color="black", linestyle="--", linewidth=1, label="original")
    axes.set(xlim=(0, 100), ylim=(0, 1.03), xlabel=xlabel, ylabel=accuracy_name(int(at.attrs.get("top", 1))))


def binarization(found: xr.Dataset) -> Figure:
    """Figure 4: accuracy through one window of each neuron's range, by its center; controls lighter.

    A panel a site. Lines are means over seeds, bands their range. Dashed: the network as it is; dotted: chance.

    `found` is binarization.nc: `accuracy_by_seed(source, seed, site, window_center)`, NaN where not finished and left
    out, of the sources trained, untrained and projection; the numbers `original_accuracy` and `chance`; and the
    attribute `top` as in `quantization`.

    ```python
    figures.binarization(neuron_mech.load("runs/digits")["binarization"].to_dataset()).savefig("figure4.png")
    ```
    """
    return _by_site(found, binarization_panel)


def binarization_panel(axes: Axes, found: xr.Dataset, name: str) -> None:
    """Draw figure 4 of the site `name`."""
    at = found.sel(site=name)
    _frame(axes, at, "percentile rank of the window's center")
    named = {"trained": "trained neurons", "untrained": "untrained neurons"}
    named["projection"] = "random projection of the input"
    curves = {label: at.accuracy_by_seed.sel(source=source) for source, label in named.items()}
    _draw(axes, curves, "window_center")
    axes.axhline(float(found.chance), color=NEUTRAL, linestyle=":", linewidth=1, label="chance")


def information(found: xr.Dataset) -> Figure:
    """Every neuron's best threshold, and the information about the label in its one bit and in its whole value.

    A column a site. Above: share of samples below the threshold with most information, in percent. Below: bits.

    `found` is quantization.nc: `best_rank_by_seed`, a percentile rank, `code_information_by_seed` and
    `value_information_by_seed(seed, neuron)`, in bits. The neurons of all seeds are counted together.

    ```python
    figures.information(neuron_mech.load("runs/digits")["quantization"].to_dataset())
    ```
    """
    with style():
        names = [str(name) for name in found.site.values]
        figure = Figure(figsize=(3.3 * len(names), 4.8))
        panels = np.atleast_2d(figure.subplots(2, len(names), squeeze=False))
        for column, name in enumerate(names):
            top, below = panels[:, column]
            at = found.sel(site=name, neuron_site=name)
            top.set_title(at.label.item())
            best = at.best_rank_by_seed.values.ravel()
            top.hist(best, bins=np.linspace(0, 100, 21), color=MEASURED)
            top.axvline(50, color=NEUTRAL, linestyle=":")
            top.set(xlabel="samples below best threshold (%)", ylabel="neurons")
            whole, bit = (at[f"{k}_information_by_seed"].values.ravel() for k in ("value", "code"))
            bins = np.linspace(0, max(whole.max(), bit.max()) * 1.02, 31)
            below.hist(whole, bins=bins, color=NEUTRAL, alpha=0.6, label=f"whole value, median {np.median(whole):.2f}")
            below.hist(
                bit, bins=bins, histtype="step", color=MEASURED, lw=1.5, label=f"one bit, median {np.median(bit):.2f}"
            )
            below.set(xlabel="information about the label (bits)", ylabel="neurons")
            below.set_ylim(0, 1.35 * below.get_ylim()[1])  # room for the legend
            below.legend(frameon=False, loc="upper left")
    return figure
