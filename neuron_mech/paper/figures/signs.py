"""Average signs, their constancy, and training curves (figures 1 and 5)."""

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuron_mech.paper.figures.styles import (
    CONTROLS,
    HIGH,
    LOW,
    MEASURED,
    NEUTRAL,
    bar_places,
    legend_below,
    site_color,
    style,
)


def average_sign_histograms(signs: xr.Dataset, one_neuron: bool = False) -> Figure:
    """Figure 5: histograms of average signs over all neurons of each site; or figure 1, of one random neuron each.

    A panel a site, three in a row. Bars left of 0 are high (the activation should rise), right of 0 low; dotted lines
    mark |average sign| = 0.9, beyond which a pair counts as constant, and the share that does is written above.

    Arguments:
        signs: gradient_signs.nc, or a recorder's `signs()`: `neuron_histogram(neuron, bin)` in pairs, `constancy` and
            `positions(site)`; for figure 1 also `random_neuron(site)`, its index, and `neuron_constancy(neuron)`.
        one_neuron: whether to draw figure 1.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> from neuron_mech.paper import figures
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> recorder = neuron_mech.recorder(model, variables, x, labels, "layers_2", recordings=100).update(variables)
    >>> figure = figures.average_sign_histograms(recorder.signs())
    >>> [axes.get_title() for axes in figure.axes]
    ['all 3 neurons of layers_2']
    """
    names = [str(name) for name in signs.site.values]
    with style():
        columns = min(len(names), 3)
        rows = -(-len(names) // columns)
        figure = Figure(figsize=(3.3 * columns, 2.5 * rows + 0.35))
        for panel, name in enumerate(names):
            axes = figure.add_subplot(rows, columns, panel + 1)
            histogram_panel(axes, signs, name, one_neuron)
        figure.legend(handles=category_patches(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def average_signs_by_phase(signs: xr.Dataset) -> Figure:
    """Figure 5 of the recordings before training accuracy saturated, and of those after it, side by side by site.

    Peaks at ±1/2 can come from the time spent after saturation. Heights are shares of the phase's pairs; the title says
    where a phase did not happen.

    `signs` is gradient_signs.nc: `phase_histogram(site, phase, bin)` in pairs and `constancy_by_phase(site, phase)`,
    NaN for no recordings, with phases before and after.

    ```python
    run = neuron_mech.load("runs/digits")
    figures.average_signs_by_phase(run["gradient_signs"].to_dataset()).savefig("by_phase.png")
    ```
    """
    names = [str(name) for name in signs.site.values]
    with style():
        figure = Figure(figsize=(6.4, 2.2 * len(names) + 0.35))
        panels = figure.subplots(len(names), 2, squeeze=False, sharex=True)
        center = signs.bin.values
        for row, name in zip(panels, names, strict=True):
            at = signs.sel(site=name)
            for axes, phase in zip(row, ("before", "after"), strict=True):
                counts = at.phase_histogram.sel(phase=phase).values
                share = float(at.constancy_by_phase.sel(phase=phase))
                title = f"{at.label.item()}, {phase} saturation"
                axes.set_title(title if counts.sum() else f"{title}: none")
                axes.bar(center, counts / max(counts.sum(), 1), 0.09, color=np.where(center < 0, HIGH, LOW))
                axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
                axes.set_ylabel("share of pairs")
                if np.isfinite(share):
                    said = f"{share:.0%} constant"
                    axes.text(0.5, 0.97, said, transform=axes.transAxes, ha="center", va="top")
        for axes in panels[-1]:
            axes.set(xlim=(-1.03, 1.03), xlabel="average derivative sign")
    return figure


def histogram_panel(axes: Axes, signs: xr.Dataset, name: str, one_neuron: bool = False) -> None:
    """Draw the average signs at the site `name`: of all its neurons, or of the one neuron of figure 1."""
    at = signs.sel(site=name, neuron_site=name)
    by_neuron, label = at.neuron_histogram, at.label.item()
    if one_neuron:
        neuron = int(at.random_neuron)
        counts = by_neuron.sel(neuron_index=neuron)
        axes.set_title(f"neuron {neuron} of {label}", y=1, pad=14)  # above the axis's power of ten
    else:
        counts = by_neuron.sum("neuron_index")
        axes.set_title(f"all {by_neuron.sizes['neuron_index']} neurons of {label}", y=1, pad=14)
    center = signs.bin.values
    width = center[1] - center[0]
    axes.bar(center, counts, width=0.9 * width, color=np.where(center < 0, HIGH, LOW))
    for edge in (-0.9, 0.9):
        axes.axvline(edge, color=NEUTRAL, linestyle=":", linewidth=0.8)
    axes.set(xlim=(-1.03, 1.03), xlabel="average derivative sign", ylabel=_counted(int(at.positions), one_neuron))
    axes.ticklabel_format(axis="y", useMathText=True)  # of all axes it would double the time of a figure
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])  # room for the text
    share = at.neuron_constancy.sel(neuron_index=neuron) if one_neuron else at.constancy
    axes.text(0.5, 0.97, f"{float(share):.0%} constant", transform=axes.transAxes, ha="center", va="top")


def category_patches() -> list[mpl.patches.Patch]:
    """Legend entries of the two categories."""
    named = ((HIGH, "high: should rise"), (LOW, "low: should fall"))
    return [mpl.patches.Patch(color=color, label=label) for color, label in named]


def _counted(positions: int, one_neuron: bool) -> str:
    parts = ("sample", *(("position",) if positions > 1 else ()), *(() if one_neuron else ("neuron",)))
    return "samples" if parts == ("sample",) else f"({', '.join(parts)})" + (" pairs" if len(parts) == 2 else "")


def constancy_over_training(signs: xr.Dataset) -> Figure:
    """Constancy so far at every epoch's end, by site, with training and test accuracy below.

    The dashed line marks the epoch in which training accuracy reached saturation. Markers right of the axes give the
    constancy of the recordings before it and after it, each by themselves: constancy also grows by recording longer
    after convergence.

    `signs` is gradient_signs.nc: `constancy_so_far(site, epoch)`, `constancy_by_phase(site, phase)`, `train_accuracy`
    and `test_accuracy(epoch)`, the number `saturation_epoch`, -1 for never, and the attribute `saturation`, a share.

    ```python
    figures.constancy_over_training(neuron_mech.load("runs/digits")["gradient_signs"].to_dataset())
    ```
    """
    with style():
        figure = Figure(figsize=(6.4, 4.4))
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        epochs = signs.epoch.values
        last = float(epochs[-1])
        for index, name in enumerate(signs.site.values):
            color = site_color(index, len(signs.site))
            label = str(signs.label.sel(site=name).values)
            dashes = ("-", "--", ":")[index % 3] if len(signs.site) > 4 else "-"  # shades that lie close together
            top.plot(epochs, signs.constancy_so_far.sel(site=name), dashes, color=color, label=label)
            for x, phase, marker in ((1.04, "before", "o"), (1.09, "after", "D")):
                value = float(signs.constancy_by_phase.sel(site=name, phase=phase))
                top.plot(last * x, value, marker, color=color, markersize=5, clip_on=False)
        top.set(ylabel="share of constant signs\n(|average sign| > 0.9)", ylim=(0, 1))
        top.plot([], [], "o", color=NEUTRAL, label="recordings before saturation")
        top.plot([], [], "D", color=NEUTRAL, label="recordings after saturation")
        below.plot(epochs, signs.train_accuracy, color="black", label="training samples")
        below.plot(epochs, signs.test_accuracy, color=NEUTRAL, linestyle="--", label="test samples")
        lowest = float(min(signs.train_accuracy.min(), signs.test_accuracy.min()))
        below.set(ylim=(max(0.0, lowest - 0.02), 1.005), ylabel="accuracy", xlabel="epoch")
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
    """Constancy by recorded objective and site, and on the right the share of derivatives that were exactly zero.

    `signs` is gradient_signs.nc of a run with `record.compare_objectives`: `objective_constancy(objective, site)` and
    `zero_share(objective, site)`, of one to seven objectives.

    ```python
    figures.objectives(neuron_mech.load("runs/mnist-relu")["gradient_signs"].to_dataset())
    ```
    """
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
                at, shares = bar_places(len(sites), index, len(names), 0.8), signs[variable].sel(objective=name)
                color = (MEASURED, *CONTROLS)[index]
                bars = axes.bar(at, shares, width=0.74 / len(names), color=color, label=name)
                axes.bar_label(bars, fmt="{:.1%}", fontsize=6, padding=1)
            axes.set_xticks(range(len(sites)), sites)
            axes.set_ylabel(label)
            axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
        left.set_ylim(0, 1.08)
        right.set_ylim(0, max(0.01, 1.15 * float(signs.zero_share.max())))
        legend_below(figure, left, len(names))
    return figure


def controls(found: xr.Dataset) -> Figure:
    """Constancy of the run and of its controls, by site; hatched where random labels were not fitted.

    Diamonds give the constancy of the recordings after training accuracy saturated.

    `found` is controls.nc: `constancy(control, site)`, `constancy_by_phase(control, site, phase)` and, by control,
    whether labels were `fitted`. The controls are some of as-it-is, random-labels, true-labels, train-mode, online,
    cross_entropy and keras2017.

    ```python
    figures.controls(neuron_mech.load("runs/digits")["controls"].to_dataset())
    ```
    """
    names = [str(name) for name in found.control.values]
    sites = [str(label) for label in found.label.values]
    with style():
        figure = Figure(figsize=(max(6.4, 2.6 * len(sites)), 3.2))
        axes = figure.subplots()
        for index, name in enumerate(names):
            at = bar_places(len(sites), index, len(names), 0.84)
            one = found.sel(control=name)
            hatch = "///" if name == "random-labels" and not bool(one.fitted) else None
            color = MEASURED if name == "as-it-is" else CONTROLS[(index - 1) % len(CONTROLS)]
            bars = axes.bar(at, one.constancy, 0.78 / len(names), color=color, hatch=hatch, label=_CONTROLS[name])
            dark = color in (MEASURED, NEUTRAL, "#4D4D4D", "#8C5A78")
            axes.bar_label(bars, fmt="{:.0%}", fontsize=7, label_type="center", color="white" if dark else "black")
            after = one.constancy_by_phase.sel(phase="after")
            axes.plot(at, after, "D", color="black", markeredgecolor="white", markersize=4)
        axes.plot([], [], "D", color="black", markersize=3.5, label="recordings after saturation")
        axes.set_xticks(range(len(sites)), sites)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
        axes.set_ylabel("constant signs\n(|average sign| > 0.9)")
        legend_below(figure, axes, 2)
    return figure


_CONTROLS = {
    "as-it-is": "the run",
    "random-labels": "random labels, trained until fitted",
    "true-labels": "true labels, trained as the random ones",
    "train-mode": "recorded with dropout and batch statistics",
    "online": "the training steps' own gradients",
    "cross_entropy": "through float32 log-softmax",
    "keras2017": "through clipped probabilities",
}


def training_curves(train: xr.Dataset) -> Figure:
    """Loss by step, with its mean by epoch, and accuracy by epoch.

    `train` is train.nc: `loss(step)` in nats, above 0 since its axis is logarithmic, `train_accuracy` and
    `test_accuracy(epoch)`, and the attribute `batches_per_epoch`.

    ```python
    figures.training_curves(neuron_mech.load("runs/digits")["train"].to_dataset())
    ```
    """
    with style():
        figure = Figure(figsize=(6.4, 2.6))
        left, right = figure.subplots(1, 2)
        epoch = (train.step.values + 1) / train.attrs["batches_per_epoch"]
        left.plot(epoch, train.loss, color=NEUTRAL, linewidth=0.3, alpha=0.6)
        smooth = train.loss.groupby(train.step // train.attrs["batches_per_epoch"]).mean()
        left.plot(train.epoch, smooth, color="black", label="mean of the epoch")
        left.set(yscale="log", ylabel="training loss (nats)")
        left.legend(frameon=False)
        right.plot(train.epoch, train.train_accuracy, color="black", label="training samples")
        right.plot(train.epoch, train.test_accuracy, color=NEUTRAL, linestyle="--", label="test samples")
        right.set_ylabel("accuracy")
        right.legend(frameon=False)
        for axes in (left, right):
            axes.set_xlabel("epoch")
    return figure
