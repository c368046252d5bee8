"""The paper's figures, and those it lacks: a labelled dataset in, a matplotlib Figure out. No files are touched.

One visual language throughout. Okabe and Ito's colours, which readers with any colour vision tell apart: blue where
the derivative is negative (*high*: the activation should rise), vermilion where it is positive (*low*).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HIGH, LOW, NEUTRAL = "#0072B2", "#D55E00", "#7F7F7F"
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")

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
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-3, 4),
    "svg.hashsalt": "neuron_mech",  # the same figure gives the same file
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """The project's matplotlib settings, for notebooks that add figures of their own."""
    with mpl.rc_context(cast(Any, _STYLE)):
        yield


def average_sign_histograms(signs: xr.Dataset, one_neuron: bool = False) -> Figure:
    """Figure 5: histograms of average signs over all neurons of each site; or figure 1, of one random neuron each.

    `signs` is gradient_signs.nc. Bars left of 0 are high, right of 0 low; a dotted line marks |average sign| = 0.9.
    """
    names = [str(name) for name in signs.site.values]
    with style():
        columns = min(len(names), 3)
        rows = -(-len(names) // columns)
        figure = Figure(figsize=(3.3 * columns, 2.5 * rows + 0.35))
        for panel, name in enumerate(names):
            axes = figure.add_subplot(rows, columns, panel + 1)
            by_neuron = signs[f"neuron_histogram_{name}"]
            label = str(signs.label.sel(site=name).values)
            if one_neuron:
                neuron = int(signs.random_neuron.sel(site=name))
                counts = by_neuron.sel({f"neuron_{name}": neuron})
                axes.set_title(f"neuron {neuron} of {label}")
            else:
                counts = by_neuron.sum(f"neuron_{name}")
                axes.set_title(f"all {by_neuron.sizes[f'neuron_{name}']} neurons of {label}")
            center = signs.average_sign.values
            width = center[1] - center[0]
            axes.bar(center, counts, width=0.9 * width, color=np.where(center < 0, HIGH, LOW))
            for edge in (-0.9, 0.9):
                axes.axvline(edge, color=NEUTRAL, linestyle=":", linewidth=0.8)
            axes.set_xlim(-1.03, 1.03)
            axes.set_xlabel("average derivative sign")
            axes.set_ylabel("samples" if one_neuron else "(sample, neuron) pairs")
            share = _constant_share(signs, name, one_neuron)
            axes.text(0.5, 0.97, f"{share:.0%} constant", transform=axes.transAxes, ha="center", va="top")
        handles = [
            mpl.patches.Patch(color=HIGH, label="high: should rise"),
            mpl.patches.Patch(color=LOW, label="low: should fall"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _constant_share(signs: xr.Dataset, name: str, one_neuron: bool) -> float:
    if not one_neuron:
        return float(signs.constancy.sel(site=name))
    neuron = int(signs.random_neuron.sel(site=name))
    return float(signs[f"neuron_constancy_{name}"].sel({f"neuron_{name}": neuron}))


def constancy_over_training(signs: xr.Dataset) -> Figure:
    """Constancy so far at every epoch's end, by site, with training and test accuracy below.

    The dashed line marks the epoch in which training accuracy reached saturation; markers right of the axes give the
    constancy of the recordings before and after it alone, so that growth by mere waiting can be told from learning.
    """
    with style():
        figure = Figure(figsize=(6.4, 4.4))
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        epochs = signs.epoch.values
        last = float(epochs[-1])
        for index, name in enumerate(signs.site.values):
            color = SERIES[index % len(SERIES)]
            label = str(signs.label.sel(site=name).values)
            top.plot(epochs, signs.constancy_so_far.sel(site=name), color=color, label=label)
            for x, phase, marker in ((1.04, "before", "o"), (1.09, "after", "D")):
                value = float(signs.constancy_by_phase.sel(site=name, phase=phase))
                top.plot(last * x, value, marker, color=color, markersize=5, clip_on=False)
        top.set_ylabel("share of constant signs\n(|average sign| > 0.9)")
        top.set_ylim(0, 1)
        top.plot([], [], "o", color=NEUTRAL, label="recordings before saturation")
        top.plot([], [], "D", color=NEUTRAL, label="recordings after saturation")
        below.plot(epochs, signs.train_accuracy, color="black", label="training samples")
        below.plot(epochs, signs.test_accuracy, color=NEUTRAL, linestyle="--", label="test samples")
        lowest = float(min(signs.train_accuracy.min(), signs.test_accuracy.min()))
        below.set_ylim(max(0.0, lowest - 0.02), 1.005)
        below.set_ylabel("accuracy")
        below.set_xlabel("epoch")
        below.legend(frameon=False, loc="lower right")
        saturated = int(signs.saturation_epoch)
        if saturated > 0:
            for axes in (top, below):
                axes.axvline(saturated, color=NEUTRAL, linestyle="--", linewidth=0.9)
            late = saturated > 0.6 * last
            top.annotate(
                f"training accuracy ≥ {signs.attrs['saturation']:.0%}",
                (saturated, 0.02),
                xytext=(-4 if late else 4, 0),
                textcoords="offset points",
                ha="right" if late else "left",
                color=NEUTRAL,
            )
        top.set_xlim(0, last * 1.12)
        top.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def objectives(signs: xr.Dataset) -> Figure:
    """Constancy by recorded objective and site, with the share of derivatives that were exactly zero."""
    with style():
        figure = Figure(figsize=(6.4, 2.8))
        left, right = figure.subplots(1, 2)
        names = [str(o) for o in signs.objective.values]
        sites = [str(label) for label in signs.label.values]
        for axes, variable, label in (
            (left, "objective_constancy", "share of constant signs"),
            (right, "zero_share", "share of zero derivatives"),
        ):
            for index, name in enumerate(names):
                at = np.arange(len(sites)) + (index - (len(names) - 1) / 2) * 0.8 / len(names)
                bars = axes.bar(
                    at, signs[variable].sel(objective=name), width=0.74 / len(names), color=SERIES[index], label=name
                )
                axes.bar_label(bars, fmt="{:.1%}", fontsize=6, padding=1)
            axes.set_xticks(range(len(sites)), sites)
            axes.set_ylabel(label)
            axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
        left.set_ylim(0, 1.08)
        right.set_ylim(0, max(0.01, 1.15 * float(signs.zero_share.max())))
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def training_curves(train: xr.Dataset) -> Figure:
    """Loss by step and accuracy by epoch. `train` is train.nc."""
    with style():
        figure = Figure(figsize=(6.4, 2.6))
        left, right = figure.subplots(1, 2)
        epoch = (train.step.values + 1) / train.attrs["batches_per_epoch"]
        left.plot(epoch, train.loss, color=NEUTRAL, linewidth=0.3, alpha=0.6)
        smooth = train.loss.groupby(train.step // train.attrs["batches_per_epoch"]).mean()
        left.plot(train.epoch, smooth, color="black", label="mean of the epoch")
        left.set_yscale("log")
        left.set_ylabel("training loss (nats)")
        left.legend(frameon=False)
        right.plot(train.epoch, train.train_accuracy, color="black", label="training samples")
        right.plot(train.epoch, train.test_accuracy, color=NEUTRAL, linestyle="--", label="test samples")
        right.set_ylabel("accuracy")
        right.legend(frameon=False)
        for axes in (left, right):
            axes.set_xlabel("epoch")
    return figure


def _curve(axes: Axes, by_seed: xr.DataArray, x: str, **style: Any) -> None:
    """A mean over seeds with the range of the seeds as a band."""
    axes.plot(by_seed[x], by_seed.mean("seed"), **style)
    if by_seed.sizes["seed"] > 1:
        axes.fill_between(by_seed[x], by_seed.min("seed"), by_seed.max("seed"), color=style["color"], alpha=0.2, lw=0)


def _site_panels(found: xr.Dataset, height: float = 2.6) -> tuple[Figure, list[tuple[str, Axes]]]:
    """One panel a site, titled, accuracies from 0 to 1."""
    names = [str(name) for name in found.site.values]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.3 * columns, height * rows + 0.5))
    panels = [(name, figure.add_subplot(rows, columns, index + 1)) for index, name in enumerate(names)]
    for name, axes in panels:
        axes.set_title(str(found.label.sel(site=name).values))
    return figure, panels


def quantization(found: xr.Dataset) -> Figure:
    """Figure 3: accuracy with two values a neuron, by the threshold's percentile rank, and controls in lighter lines.

    `found` is quantization.nc. Bands are the range over seeds. The vertical line marks the mean rank of 0.
    """
    with style():
        figure, panels = _site_panels(found)
        for name, axes in panels:
            at = found.sel(site=name)
            axes.axhline(float(at.original_accuracy), color="black", linestyle="--", linewidth=1, label="original")
            axes.axvline(float(at.zero_rank_mean), color=NEUTRAL, linestyle=":", label="mean rank of 0")
            for variable, label, color, width, line in (
                ("accuracy", "two values", HIGH, 2.0, "-"),
                ("noise_accuracy", "noise of equal error", SERIES[1], 1.0, "-"),
                ("permuted_accuracy", "two values, dealt at random", SERIES[3], 1.0, "-."),
            ):
                _curve(axes, at[f"{variable}_by_seed"], "percentile_rank", label=label, color=color, lw=width, ls=line)
            axes.plot(
                float(at.zero_rank_mean),
                float(at.zero_threshold_accuracy),
                "D",
                color=SERIES[2],
                markersize=5,
                label="two values, cut at 0",
            )
            axes.set_ylim(0, 1.03)
            axes.set_xlabel("percentile rank used as threshold")
            axes.set_ylabel("test accuracy")
        figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def binarization(found: xr.Dataset) -> Figure:
    """Figure 4: accuracy after retraining on one window of each neuron's range, by its center; controls lighter.

    `found` is binarization.nc; cells that are not finished are left out. Bands are the range over seeds.
    """
    with style():
        figure, panels = _site_panels(found)
        for name, axes in panels:
            at = found.sel(site=name)
            axes.axhline(float(at.original_accuracy), color="black", linestyle="--", linewidth=1, label="original")
            for source, label, color, width, line in (
                ("trained", "trained neurons", HIGH, 2.0, "-"),
                ("untrained", "untrained neurons", SERIES[1], 1.0, "-"),
                ("projection", "random projection of the input", SERIES[3], 1.0, "-."),
            ):
                curve = at.accuracy_by_seed.sel(source=source)
                _curve(axes, curve, "window_center", label=label, color=color, lw=width, ls=line, marker=".")
            axes.axhline(float(found.chance), color=NEUTRAL, linestyle=":", linewidth=1, label="chance")
            axes.set_xlim(0, 100)
            axes.set_ylim(0, 1.03)
            axes.set_xlabel("percentile rank of the window's center")
            axes.set_ylabel("test accuracy")
        figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def information(found: xr.Dataset) -> Figure:
    """Every neuron's own best threshold, and what its one bit says about the label against its whole value.

    `found` is quantization.nc. Above: share of samples below the threshold that says most. Below: bits.
    """
    with style():
        names = [str(name) for name in found.site.values]
        figure = Figure(figsize=(3.3 * len(names), 4.8))
        panels = np.atleast_2d(figure.subplots(2, len(names), squeeze=False))
        for column, name in enumerate(names):
            top, below = panels[:, column]
            top.set_title(str(found.label.sel(site=name).values))
            best = found[f"best_rank_{name}_by_seed"].values.ravel()
            top.hist(best, bins=np.linspace(0, 100, 21), color=HIGH)
            top.axvline(50, color=NEUTRAL, linestyle=":")
            top.set_xlabel("samples below best threshold (%)")
            top.set_ylabel("neurons")
            whole, bit = (found[f"{k}_information_{name}_by_seed"].values.ravel() for k in ("value", "code"))
            bins = np.linspace(0, max(whole.max(), bit.max()) * 1.02, 31)
            below.hist(whole, bins=bins, color=NEUTRAL, alpha=0.6, label=f"whole value, median {np.median(whole):.2f}")
            below.hist(
                bit, bins=bins, histtype="step", color=HIGH, lw=1.5, label=f"one bit, median {np.median(bit):.2f}"
            )
            below.set_xlabel("information about the label (bits)")
            below.set_ylabel("neurons")
            below.set_ylim(0, 1.35 * below.get_ylim()[1])  # room for the legend
            below.legend(frameon=False, loc="upper left")
    return figure
