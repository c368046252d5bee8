"""Figures of early_layers.nc."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.figures.styles import HIGH, LOW, NEUTRAL, SERIES, style


def figure_of_signals(found: xr.Dataset) -> Figure:
    """By layer: reliability, the split of the variance, and noise ceilings; means over seeds."""
    with style():
        figure = Figure(figsize=(9.6, 3.0))
        reliability, split, ceilings = figure.subplots(1, 3)
        layers = np.arange(1, found.sizes["site"] + 1)
        mean = found.mean("seed")
        for source, dashes in (("derivative", "-"), ("null", ":")):
            of, beside = mean.sel(source=source), "" if source == "derivative" else " (N1)"
            ends = of.between_windows.isel(window=0, other_window=-1)
            reliability.plot(layers, of.halves, dashes, marker="o", ms=3, color=HIGH, label=f"odd, even{beside}")
            reliability.plot(layers, ends, dashes, marker="o", ms=3, color=LOW, label=f"first, last tenth{beside}")
        reliability.set_ylabel("correlation of average signs")
        reliability.set_ylim(min(0, float(found.between_windows.isel(window=0, other_window=-1).min())) - 0.05, 1.02)
        bottom = np.zeros(len(layers))
        of = mean.sel(source="derivative")
        for name, color in (("constant", HIGH), ("drift", SERIES[1]), ("noise", NEUTRAL)):
            share = (of[name] / of.variance).values
            split.bar(layers, share, bottom=bottom, color=color, label=name)
            bottom = bottom + share
        split.set_ylabel("share of the average sign's variance")
        for index, noise in enumerate(found.replicas_of.values):
            at = mean.ceiling.sel(replicas_of=noise, moment="end")
            ceilings.plot(layers, at, "o-", ms=3, color=SERIES[index], label=str(noise))
        ceilings.plot(layers, 1 - 2 * found.wrong_signs, "k:", label="float32, float64")
        ceilings.set_ylabel("mean product of two replicas' signs\n(end of training)")
        ceilings.set_ylim(top=1.02)
        for axes in (reliability, split, ceilings):
            axes.set_xlabel("layer")
            axes.set_xticks(layers)
            axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


def figure_of_freezing(found: xr.Dataset) -> Figure:
    """The freeze map: share of pairs whose sign turns no more, by layer and recording; gates and the null beside."""
    with style():
        figure = Figure(figsize=(9.6, 3.0))
        titles = {"derivative": "derivative's sign", "gate": "ReLU gate", "null": "derivative under N1"}
        panels = figure.subplots(1, 3, sharey=True)
        colors = mpl.colormaps["viridis"](np.linspace(0, 0.9, found.sizes["site"]))
        for axes, (source, title) in zip(panels, titles.items(), strict=True):
            for layer, color in enumerate(colors):
                curve = found.frozen.sel(followed=source).isel(site=layer).mean("seed")
                axes.plot(100 * np.arange(len(curve)) / len(curve), curve, color=color, label=f"layer {layer + 1}")
            axes.set_title(title)
            axes.set_xlabel("training (%)")
        panels[0].set_ylabel("share of pairs frozen")
        panels[0].set_ylim(0, 1)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=8, frameon=False)
    return figure


def figure_of_arms(found: xr.Dataset) -> Figure:
    """Test accuracy by epoch of ordinary training and of every arm, a line a mean over seeds; bands are all seeds."""
    with style():
        figure = Figure(figsize=(7.0, 3.2))
        axes = figure.subplots()
        for index, arm in enumerate(found.arm.values):
            of = found.accuracy.sel(arm=arm, part="test")
            epochs = np.arange(1, of.sizes["epoch"] + 1)
            color, dashes = ("black", "-") if arm == "ordinary" else (SERIES[index % 6], "-" if index < 6 else "--")
            axes.plot(epochs, of.mean("seed"), dashes, color=color, label=str(arm))
            axes.fill_between(epochs, of.min("seed"), of.max("seed"), color=color, alpha=0.1, lw=0)
        axes.axhline(1 / found.attrs["classes"], color=NEUTRAL, ls=":", label="chance")
        axes.set_ylim(0, 1)
        axes.set_xlabel("epoch")
        axes.set_ylabel("test accuracy")
        figure.legend(loc="outside right center", frameon=False)
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
            for layer, color in (("first", HIGH), ("last", LOW)):
                of = found[f"factor_{name}"].sel(layer=layer)
                for seed in of.seed.values if "seed" in of.coords else range(of.sizes["seed"]):
                    axes.plot(of.isel(seed=seed), rows, ".", ms=4, color=color, label=f"{layer} layer" if not seed else "")
            axes.set_xlabel(said)
        panels[0].legend(frameon=False)
        for seed in range(found.sizes["seed"]):
            panels[2].plot(found.factor_accuracy.sel(part="test").isel(seed=seed), rows, "k.", ms=4)
        panels[2].set_xlabel("test accuracy")
        panels[0].set_yticks(rows, [str(name) for name in found.factor.values])
        panels[0].invert_yaxis()
    return figure
