"""Figures of text.nc, and its summary for a terminal."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.command_line.columns import aligned
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.figures.styles import CONTROLS, MEASURED, NEUTRAL, site_color, site_panels, style


def figure_by_position(found: xr.Dataset) -> Figure:
    """Constancy at each position of the context, a line a block. `found` is text.nc."""
    with style():
        figure = Figure(figsize=(6.4, 3.0))
        axes = figure.subplots()
        for index, site in enumerate(found.site.values):
            at = found.sel(site=site).dropna("before", subset=["position_constancy"])
            label = at.label.item() + (": last position only" if at.sizes["before"] == 1 else "")
            axes.plot(
                at.before, at.position_constancy, "o-", ms=3, color=site_color(index, len(found.site)), label=label
            )
        axes.set_xlim(found.sizes["before"] + 0.5, 0.5)
        axes.set_xticks(np.unique(np.linspace(1, found.sizes["before"], 5).round()))
        axes.set_ylim(0, 1)
        axes.set_xlabel("position in the context (characters before the predicted one)")
        axes.set_ylabel("share of constant signs\n(|average sign| > 0.9)")
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def figure_of_windows(found: xr.Dataset) -> Figure:
    """Accuracy of linear probes on one window, by its center; untrained neurons lighter. `found` is text.nc."""
    with style():
        figure, panels = site_panels(found.site.values, found.label.values)
        accuracy = float(found.accuracy.sel(split="test"))
        for site, axes in panels:
            axes.axhline(accuracy, color="black", ls="--", lw=1, label="the network")
            for source, color, width in (("trained", MEASURED, 2.0), ("untrained", CONTROLS[0], 1.0)):
                curve = found.window_accuracy.sel(site=site, source=source)
                axes.plot(curve.window_center, curve, ".-", color=color, lw=width, label=f"{source} neurons")
            axes.axhline(float(found.chance), color=NEUTRAL, ls=":", lw=1, label="most frequent character")
            axes.set_xlim(0, 100)
            axes.set_ylim(0, 1.1 * max(accuracy, float(found.window_accuracy.max())))
            axes.set_xlabel("percentile rank of the window's center")
            axes.set_ylabel("test accuracy")
        figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def summary(found: xr.Dataset) -> str:
    """What the network reached; of every block constancy, separation, and the windows' lowest and highest accuracy."""
    accuracy, bits = ([float(value) for value in found[name]] for name in ("accuracy", "bits"))
    lines = [
        f"test accuracy {accuracy[1]:.1%} (training {accuracy[0]:.1%}), {bits[1]:.2f} bits a character "
        f"({bits[0]:.2f}); most frequent character {float(found.chance):.1%}",
    ]
    rows = [
        [
            *("", "constant", "independent", "last position", "independent", "AUC, first and last"),
            *("windows, trained", "untrained"),
        ]
    ]
    for site in found.site.values:
        at = found.sel(site=site)
        names = ("constancy", "independent_constancy", "last_constancy", "last_independent_constancy")
        spans = (at.window_accuracy.sel(source=source) for source in ("trained", "untrained"))
        rows.append(
            [
                str(at.label.item()),
                *(f"{at[name].item():.1%}" for name in names),
                ", ".join(f"{value:.3f}" for value in at.auc.values),
                *(f"{span.min().item():.1%}-{span.max().item():.1%}" for span in spans),
            ]
        )
    return "\n".join([*lines, aligned(*rows)])


def figure_by_distance(found: xr.Dataset) -> Figure:
    """Constancy by distance, a panel a block: of one position's loss, and of the whole loss. `later_tokens.nc`."""
    with style():
        figure, panels = site_panels(found.block.values, found.block.values)
        for block, axes in panels:
            at = found.sel(block=block)
            axes.plot(
                at.distance, at.one_constancy, "o-", ms=3, color=MEASURED, label="one position's loss, by its distance"
            )
            said = "whole loss, by distance to the last position"
            axes.plot(at.distance, at.whole_constancy, "s--", ms=3, color="black", label=said)
            axes.axhline(float(at.independent), color=NEUTRAL, ls=":", label="independent signs")
            axes.set(ylim=(0, 1), xlabel="distance (characters)")
        panels[0][1].set_ylabel("share of constant signs\n(|average sign| > 0.9)")
        figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
