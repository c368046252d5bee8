"""Figures of activation_functions.nc."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from experiments.activation_functions import claims
from experiments.command_line.columns import aligned
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.figures.styles import CONTROLS, MEASURED, NEUTRAL, style

SHOWN = {
    "relu": "black",
    "gelu": CONTROLS[3],
    "sign, straight-through + median": CONTROLS[1],
    "partition + median": MEASURED,
    "anti gate + median": CONTROLS[0],
}
"""Arms that curves are drawn of, and their colours: all at once would be a tangle."""


def figures(found: xr.Dataset) -> dict[str, Figure]:
    """{name: figure}."""
    return {"arms": figure_of_arms(found), "curves": figure_of_curves(found)}


def figure_of_arms(found: xr.Dataset) -> Figure:
    """Every arm, a point a seed: accuracy, with noise on the images, speed of separation, slope over windows."""
    with style():
        figure = Figure(figsize=(10.2, 5.2))
        panels = figure.subplots(1, 4, sharey=True)
        rows = np.arange(found.sizes["arm"])
        noise = float(found.noise[-1])
        shown = (
            ("test accuracy", claims.final(found)),
            (f"test accuracy with noise\nof standard deviation {noise:g}", found.noisy.sel(noise=noise)),
            ("epochs to half of the rise\nof pairs on their side", claims.separation_speed(found)),
            ("slope of window accuracy\n(logit) away from rank 50", claims.window_slope(found)),
        )
        for axes, (said, values) in zip(panels, shown, strict=True):
            for row, arm in enumerate(found.arm.values):
                color = MEASURED if str(arm).startswith("partition") else CONTROLS[0] if "gate" in str(arm) else "black"
                of = values.sel(arm=arm).values
                axes.plot(of, np.full(len(of), row), ".", ms=4, color=color, alpha=0.7)
                axes.plot(np.mean(of), row, "|", ms=9, color=color)
            axes.set_xlabel(said)
        panels[0].set_yticks(rows, [str(arm) for arm in found.arm.values])
        panels[0].invert_yaxis()
    return figure


def figure_of_curves(found: xr.Dataset) -> Figure:
    """Some arms: share of pairs on their side by epoch, accuracy by window, and two-value quantization by rank."""
    with style():
        figure = Figure(figsize=(9.6, 3.2))
        side, windows, quantized = figure.subplots(1, 3)
        for arm, color in SHOWN.items():
            of = found.sel(arm=arm)
            _line(side, np.arange(of.sizes["time"]), of.on_side.isel(site=-1), color, arm)
            _line(windows, of.window_center, of.window_accuracy, color, arm)
            kept = claims.kept(found).sel(arm=arm).isel(site=-1)
            _line(quantized, kept.percentile_rank, kept, color, arm)
        side.axhline(0.5, color=NEUTRAL, ls=":")
        side.set(xlabel="epoch", ylabel="share of pairs on their side")
        windows.set(xlabel="percentile rank of the window's center", ylabel="test accuracy of a probe")
        quantized.set(xlabel="percentile rank of the threshold", ylabel="accuracy kept with two values, K(r)")
        figure.legend(*side.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _line(axes: Axes, x: ArrayLike, values: xr.DataArray, color: str, label: str) -> None:
    other = next(str(dim) for dim in values.dims if dim != "seed")
    of = values.transpose("seed", other).values
    axes.plot(np.asarray(x), of.mean(0), ".-", ms=3, color=color, label=label)
    axes.fill_between(np.asarray(x), of.min(0), of.max(0), color=color, alpha=0.15, lw=0)


def summary(found: xr.Dataset) -> str:
    """Every arm in a line, means over seeds."""
    accuracy, slope, speed = claims.final(found), claims.window_slope(found), claims.separation_speed(found)
    most, noisy = claims.kept(found).isel(site=-1).max("percentile_rank"), found.noisy.isel(noise=-1)
    side = found.on_side.isel(site=-1, time=-1)
    rows = [["", "rate", "accuracy", "noisy", "speed", "on side", "slope", "max K"]]
    for arm in found.arm.values:
        of = [float(values.sel(arm=arm).mean()) for values in (accuracy, noisy, speed, side, slope, most)]
        shown = (f"{value:{form}}" for value, form in zip(of, (".1%", ".1%", ".1f", ".1%", ".2f", ".2f"), strict=True))
        rows.append([str(arm), f"{float(found.learning_rate.sel(arm=arm)):g}", *shown])
    return aligned(*rows)
