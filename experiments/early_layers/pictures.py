"""Figures of early_layers.nc."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.command_line.columns import aligned
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.figures.styles import CONTROLS, MEASURED, NEUTRAL, site_color, style

LIGHT = "#99D8C7"
"""A lighter MEASURED."""


def figures(found: xr.Dataset) -> dict[str, Figure]:
    """{name: figure} of all that is there; the grid of factors where it was measured."""
    drawn = {
        "signals": figure_of_signals(found),
        "freezing": figure_of_freezing(found),
        "arms": figure_of_arms(found),
    }
    return {**drawn, "factors": figure_of_factors(found)} if "factor" in found.dims else drawn


def figure_of_signals(found: xr.Dataset) -> Figure:
    """By layer: reliability, the split of the variance, and noise ceilings; means over seeds, a row a network."""
    with style():
        figure = Figure(figsize=(9.6, 2.6 * found.sizes["network"] + 0.6))
        rows = figure.subplots(found.sizes["network"], 3)
        for (reliability, split, ceilings), name in zip(rows, found.network.values, strict=True):
            _signals(found.sel(network=name), reliability, split, ceilings)
            reliability.set_title(str(name), loc="left")
        for axes in rows[-1]:
            axes.set_xlabel("layer")
            axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=2)
    return figure


def _signals(found: xr.Dataset, reliability: Axes, split: Axes, ceilings: Axes) -> None:
    layers = np.arange(1, found.sizes["site"] + 1)
    mean = found.mean("seed")
    for source, color in (("derivative", MEASURED), ("null", CONTROLS[0])):
        of, beside = mean.sel(source=source), "" if source == "derivative" else " (N1)"
        ends = of.between_windows.isel(window=0, other_window=-1)
        reliability.plot(layers, of.halves, "o:", ms=3, color=color, label=f"odd, even{beside}")
        reliability.plot(layers, ends, "o-", ms=3, color=color, label=f"first, last tenth{beside}")
    reliability.set(ylabel="correlation of\naverage signs", ylim=(-0.05, 1.02))
    bottom, of = np.zeros(len(layers)), mean.sel(source="derivative")
    for part, color in (("constant", MEASURED), ("drift", LIGHT), ("noise", NEUTRAL)):
        share = (of[part] / of.variance).fillna(0).values
        split.bar(layers, share, bottom=bottom, color=color, label=part)
        bottom = bottom + share
    split.set_ylabel("share of the average\nsign's variance")
    for index, noise in enumerate(found.replicas_of.values):
        at = mean.ceiling.sel(replicas_of=noise, moment="end")
        ceilings.plot(layers, at, "o-", ms=3, color=CONTROLS[index], label=str(noise))
    ceilings.plot(layers, 1 - 2 * found.wrong_signs, "k:", label="float32, float64")
    ceilings.set(ylabel="mean product of two\nreplicas' signs (end)", ylim=(0, 1.05))
    for axes in (reliability, split, ceilings):
        axes.set(xticks=layers, xlim=(0.4, len(layers) + 0.6))


def figure_of_freezing(found: xr.Dataset) -> Figure:
    """The freeze map: share of pairs whose sign turns no more, by layer and recording; gates and the null beside."""
    with style():
        figure = Figure(figsize=(9.6, 2.5 * found.sizes["network"] + 0.5))
        titles = {"derivative": "derivative's sign", "gate": "ReLU gate", "null": "derivative under N1"}
        rows = figure.subplots(found.sizes["network"], 3, sharey=True, sharex=True)
        colors = [site_color(layer, found.sizes["site"]) for layer in range(found.sizes["site"])]
        for panels, name in zip(rows, found.network.values, strict=True):
            for axes, (source, title) in zip(panels, titles.items(), strict=True):
                for layer, color in enumerate(colors):
                    curve = found.frozen.sel(followed=source, network=name).isel(site=layer).mean("seed")
                    at = 100 * np.arange(len(curve)) / len(curve)
                    axes.plot(at, curve, color=color, label=f"layer {layer + 1}")
                axes.set_title(f"{name}: {title}")
                if not np.isfinite(found.frozen.sel(followed=source, network=name)).any():
                    axes.text(0.5, 0.5, "does not apply", transform=axes.transAxes, ha="center", color=NEUTRAL)
            panels[0].set_ylabel("share of pairs frozen")
        for axes in rows[-1]:
            axes.set_xlabel("training (%)")
        rows[0][0].set_ylim(0, 1)
        figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=8, frameon=False)
    return figure


def figure_of_arms(found: xr.Dataset) -> Figure:
    """Test accuracy at the end of ordinary training and of every arm, a point a seed, a panel a network.

    Green are arms whose signs are those of the sample's own network.
    """
    with style():
        figure = Figure(figsize=(9.6, 4.0))
        panels = figure.subplots(1, found.sizes["network"], sharey=True, sharex=True)
        final, rows = found.accuracy.sel(part="test").isel(epoch=-1), np.arange(found.sizes["arm"])
        for axes, name in zip(panels, found.network.values, strict=True):
            for row, arm in enumerate(found.arm.values):
                of = final.sel(network=name, arm=arm).values
                own = str(arm).startswith("own") and "shuffled" not in str(arm)
                color = "black" if str(arm) == "ordinary" else MEASURED if own else CONTROLS[0]
                axes.plot(of, np.full(len(of), row), ".", ms=5, color=color, alpha=0.7)
                axes.plot(of.mean(), row, "|", ms=9, color=color)
            axes.axvline(1 / found.attrs["classes"], color=NEUTRAL, ls=":")
            axes.set(title=str(name), xlabel="test accuracy", xlim=(0, 1.02))
        panels[0].set_yticks(rows, [str(arm) for arm in found.arm.values])
        panels[0].invert_yaxis()
    return figure


def figure_of_factors(found: xr.Dataset) -> Figure:
    """Every network of the grid: what lasts in the first and last layer, and its accuracy; points are seeds."""
    with style():
        figure = Figure(figsize=(9.6, 4.2))
        panels = figure.subplots(1, 3, sharey=True)
        rows = np.arange(found.sizes["factor"])
        shown = (
            (panels[0], "window_reliability", "correlation of average signs,\nfirst and last tenth"),
            (panels[1], "noise_share", "share of noise in the variance\nof the average sign"),
        )
        for axes, name, said in shown:
            for layer, color in (("first", site_color(0, 2)), ("last", site_color(1, 2))):
                of = found[f"factor_{name}"].sel(layer=layer)
                for seed in of.seed.values if "seed" in of.coords else range(of.sizes["seed"]):
                    axes.plot(
                        of.isel(seed=seed), rows, ".", ms=4, color=color, label=f"{layer} layer" if not seed else ""
                    )
            axes.set_xlabel(said)
        panels[0].legend(frameon=False)
        for seed in range(found.sizes["seed"]):
            panels[2].plot(found.factor_accuracy.sel(part="test").isel(seed=seed), rows, "k.", ms=4)
        panels[2].set_xlabel("test accuracy")
        panels[0].set_yticks(rows, [str(name) for name in found.factor.values])
        panels[0].invert_yaxis()
    return figure


def summary(found: xr.Dataset) -> str:
    """Test accuracy of every arm at the end, mean over seeds, a column a network."""
    final = found.accuracy.sel(part="test").isel(epoch=-1).mean("seed")
    rows = [["test accuracy", *map(str, found.network.values)]]
    for arm in found.arm.values:
        by_network = (float(final.sel(arm=arm, network=name)) for name in found.network.values)
        rows.append([str(arm), *("–" if np.isnan(of) else f"{of:.1%}" for of in by_network)])
    return aligned(*rows)
