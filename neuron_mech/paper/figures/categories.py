"""How a neuron's categories depend on the class (figure 8), what predicts them, and which samples they hold."""

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import xarray as xr
from jaxtyping import UInt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuron_mech.paper.figures.styles import (
    CONTROLS,
    HIGH,
    LOW,
    MEASURED,
    NEUTRAL,
    PALE,
    bar_places,
    legend_below,
    site_panels,
    style,
)


def class_consistency(found: xr.Dataset) -> Figure:
    """Figure 8: for every (neuron, class), the share of the class's samples in the neuron's low category, in percent.

    A panel a site: near 0 and 100 a class is wholly in one of the neuron's categories. The line is the control, with
    labels dealt at random among the samples.

    `found` is class_consistency.nc, or a recorder's `classes(...)`: `low_share` and `permuted_low_share(neuron,
    label)`, shares, `wholly(site)`, the share of those below 5 or above 95 %, and the coordinate `site_label(site)`.

    ```python
    figures.class_consistency(neuron_mech.load("runs/digits")["class_consistency"].to_dataset())
    ```
    """
    bins = np.linspace(0, 100, 41).tolist()
    with style():
        figure, panels = site_panels(found.site.values, found.site_label.values)
        for name, axes in panels:
            at = found.sel(site=name, neuron_site=name)
            shares, dealt = (100 * part.values.ravel() for part in (at.low_share, at.permuted_low_share))
            axes.hist(shares, bins=bins, color=MEASURED, label="classes")
            axes.hist(dealt, bins=bins, histtype="step", color=NEUTRAL, lw=1.2, label="labels dealt at random")
            axes.set(xlabel="samples of the class that are low (%)", ylabel="(neuron, class) pairs", xlim=(0, 100))
            whole = float(at.wholly)
            axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
            axes.text(0.5, 0.99, f"{whole:.0%} below 5 or above 95 %", transform=axes.transAxes, ha="center", va="top")
        legend_below(figure, panels[0][1], 2)
    return figure


def predictions(found: xr.Dataset) -> Figure:
    """How well the final category is predicted, by site: from the class, from the first recording, from the weights.

    Bars are means over neurons, lines their quartiles; neurons without a number (NaN) are left out. The dotted line is
    one half, that of guessing.

    `found` is class_consistency.nc: `agreement(predictor, neuron)`, the share of pairs predicted right, of at most
    seven predictors, and the coordinate `site_label(site)`.

    ```python
    figures.predictions(neuron_mech.load("runs/digits")["class_consistency"].to_dataset())
    ```
    """
    names = [str(name) for name in found.site.values]
    kinds = [str(kind) for kind in found.predictor.values]
    colors = (NEUTRAL, PALE, CONTROLS[0], CONTROLS[2], CONTROLS[4], CONTROLS[5], MEASURED)
    with style():
        figure = Figure(figsize=(max(6.4, 1.9 * len(names) + 2.4), 3.1))
        axes = figure.subplots()
        for index, kind in enumerate(kinds):
            at = bar_places(len(names), index, len(kinds), 0.84)
            by_neuron = [found.agreement.sel(predictor=kind, neuron_site=name).values for name in names]
            mean = np.array([np.nanmean(values) for values in by_neuron])
            low, high = (np.array([np.nanquantile(values, q) for values in by_neuron]) for q in (0.25, 0.75))
            bars = axes.bar(at, mean, width=0.78 / len(kinds), color=colors[index], label=kind)
            axes.vlines(at, low, high, color="black", linewidth=0.8)
            dark = colors[index] in (NEUTRAL, MEASURED)
            texts = axes.bar_label(bars, [f"{m:.0%}" for m in mean], fontsize=8, label_type="center")
            for text in texts:
                text.set_color("white" if dark else "black")
        axes.axhline(0.5, color=NEUTRAL, linestyle=":", linewidth=0.8)
        axes.set_xticks(range(len(names)), [str(label) for label in found.site_label.values])
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
        axes.set_ylabel("categories predicted right")
        legend_below(figure, axes, 2)
    return figure


def atlas(found: xr.Dataset, which: int, images: UInt[np.ndarray, "sheets places height width channels"]) -> Figure:
    """The partition of one neuron, as images and by class.

    Above: a sheet of the most constantly low samples, one of the most constantly high ones, and one of those whose
    signs flip most. Below: low and high pairs of each class, and sign flips per recording in percent.

    Arguments:
        found: class_consistency.nc: along `atlas_neuron`, `atlas_sample(sheet, place)`, ids or -1 for none,
            `atlas_class_counts(category, label)`, `atlas_class_flips(label)`, `atlas_constancy`, `atlas_positions` and
            `atlas_label`.
        which: number of one of its atlas neurons, from 0.
        images: those of its `atlas_sample`, unsigned integers of 1, 3 or 4 channels. Places of no sample stay white.

    ```python
    found = neuron_mech.load("runs/digits")["class_consistency"].to_dataset()
    ids = found.atlas_sample.isel(atlas_neuron=0).values
    images = datasets.load(Data("digits")).train.images[np.maximum(ids, 0)]
    figures.atlas(found, 0, np.asarray(images))
    ```
    """
    at = found.isel(atlas_neuron=which)
    classes = found.sizes["label"]
    sheets = [str(sheet) for sheet in found.sheet.values]
    counts = at.atlas_class_counts.values
    low = counts[0].sum() / counts.sum()
    unit = "samples" if int(at.atlas_positions) == 1 else "(sample, position) pairs"
    with style():
        figure = Figure(figsize=(7.2, 4.5))
        figure.suptitle(
            f"neuron {int(at.atlas_neuron_index)} of {at.atlas_label.item()}\n"
            f"{low:.0%} of {int(counts.sum()):,} {unit} low, "
            f"{1 - low:.0%} high; {float(at.atlas_constancy):.0%} of signs constant",
            fontsize=9.5,
        )
        panels = figure.subplot_mosaic(
            [["a", "a", "b", "b", "c", "c"], ["d", "d", "d", "e", "e", "e"]], height_ratios=(2.1, 1.5)
        )
        for key, sheet, pictures, ids, color in zip(
            "abc", sheets, images, at.atlas_sample.values, (LOW, HIGH, "black"), strict=True
        ):
            _sheet(panels[key], pictures, ids)
            panels[key].set_title(sheet, color=color, fontsize=9)
        x = np.arange(classes)
        panels["d"].bar(x, counts[0], color=LOW, label="low")
        panels["d"].bar(x, counts[1], bottom=counts[0], color=HIGH, label="high")
        panels["d"].set_ylabel(unit)
        panels["d"].legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0)
        panels["e"].bar(x, 100 * at.atlas_class_flips.values, color=NEUTRAL)
        panels["e"].set_ylabel("sign flips\nper recording (%)")
        for key in "de":
            panels[key].set_xticks(x, [str(label) for label in found.label.values])
            panels[key].set_xlabel("class")
    return figure


def _sheet(axes: Axes, pictures: np.ndarray, ids: np.ndarray) -> None:
    """Draw images side by side in a square, one pixel apart."""
    side = int(np.ceil(np.sqrt(len(pictures))))
    _, height, width, channels = pictures.shape
    largest = max(int(pictures.max()), 1)
    canvas = np.ones((side * (height + 1) - 1, side * (width + 1) - 1, channels))
    for place, (picture, sample) in enumerate(zip(pictures, ids, strict=True)):
        row, column = divmod(place, side)
        if sample >= 0:
            top, left = row * (height + 1), column * (width + 1)
            canvas[top : top + height, left : left + width] = picture / largest
    shown = canvas[..., 0] if channels == 1 else canvas
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
