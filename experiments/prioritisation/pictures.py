"""Figures of prioritisation.nc."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.command_line.columns import aligned
from experiments.prioritisation import claims
from experiments.prioritisation.planting import PATTERNS
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.figures.styles import CONTROLS, MEASURED, NEUTRAL, style

COLORS = (MEASURED, CONTROLS[0], "black")
"""Of the training sets with wrong labels."""


def figures(found: xr.Dataset) -> dict[str, Figure]:
    """{name: figure}."""
    return {
        "patterns": figure_of_patterns(found),
        "coherence": figure_of_coherence(found, claims.noisy(found)),
        "detectors": figure_of_detectors(found),
    }


def figure_of_patterns(found: xr.Dataset) -> Figure:
    """By the size of a planted pattern: T at each layer, and AUM; points are seeds, lines means."""
    with style():
        sites = found.sizes["site"]
        figure = Figure(figsize=(3.2 * (sites + 1), 3.0))
        panels = figure.subplots(1, sites + 1)
        sizes = np.array(claims.sizes_of(found))
        times, aum = (claims.by_population(found, name) for name in ("sided_from", "aum"))
        each = [times.isel(site=site) for site in range(sites)] + [aum]
        titles = [f"{site}: T (recording)" for site in found.site.values] + ["AUM"]
        for axes, values, title in zip(panels, each, titles, strict=True):
            for index, (pattern, color) in enumerate(zip(PATTERNS, (MEASURED, CONTROLS[0]), strict=True)):
                of = values.values[:, index * len(sizes) : (index + 1) * len(sizes)]
                axes.plot(np.tile(sizes, (len(of), 1)), of, ".", ms=4, color=color, alpha=0.5)
                axes.plot(sizes, np.nanmean(of, 0), "-", color=color, label=pattern)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set(xlabel="samples of the pattern", title=title)
        panels[0].legend(frameon=False)
    return figure


def figure_of_detectors(found: xr.Dataset) -> Figure:
    """Area under the ROC curve of each score as a detector of wrong labels; what separation adds to AUM."""
    areas = {name: claims.detection(found, name) for name in claims.noisy(found)}
    gains = {name: claims.gain(found, name) for name in areas}
    with style():
        figure = Figure(figsize=(8.6, 3.2))
        detectors, added = figure.subplots(1, 2, width_ratios=(2, 1))
        rows = np.arange(len(claims.DETECTORS))
        for index, (name, of) in enumerate(areas.items()):
            for row, score in enumerate(claims.DETECTORS):
                at = row + 0.22 * (index - (len(areas) - 1) / 2)
                label = name if not row else ""
                detectors.plot(of[score], np.full(len(of[score]), at), ".", ms=5, color=COLORS[index], label=label)
        detectors.axvline(0.5, color=NEUTRAL, ls=":")
        said = {"sided_from": "T", "first_learned": "first learned", "aum": "AUM", "el2n": "EL2N", "grand": "GraNd"}
        detectors.set_yticks(rows, [said.get(name, name) for name in claims.DETECTORS])
        detectors.invert_yaxis()
        detectors.set_xlabel("area under the ROC curve, wrong labels")
        detectors.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
        for index, gain in enumerate(gains.values()):
            added.plot(gain, np.full(len(gain), index), ".", ms=5, color=COLORS[index])
        added.axvline(0, color="black", lw=0.8)
        added.axvline(0.005, color=NEUTRAL, ls=":")
        added.set_yticks(np.arange(len(gains)), list(gains))
        added.set(ylim=(len(gains) - 0.5, -0.5), xlabel="gain of AUM with separation\nover AUM alone, out of fold")
    return figure


def figure_of_coherence(found: xr.Dataset, names: list[str]) -> Figure:
    """Coherence through training, a panel a training set with wrong labels: right and wrong labels apart, by layer.

    Dotted, what so many samples would have that pull at right angles.
    """
    with style():
        figure = Figure(figsize=(3.2 * len(names), 3.0))
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            of = found.coherence.sel(training_set=name).mean("seed")
            for site, dashes in zip(found.site.values, ("--", "-", "-."), strict=False):
                for group, color in (("right labels", MEASURED), ("wrong labels", CONTROLS[0])):
                    curve = of.sel(site=site, group=group)
                    at = 100 * np.arange(len(curve)) / len(curve)
                    axes.plot(at, curve, dashes, color=color, label=f"{site}, {group}")
            wrong = found.wrong.sel(training_set=name).isel(seed=0)
            for group, color in (("right labels", MEASURED), ("wrong labels", CONTROLS[0])):
                count = int((wrong == (group == "wrong labels")).sum())
                axes.axhline(1 / count, color=color, lw=0.8, ls=":", label=f"samples at right angles, {group}")
            axes.set(yscale="log", title=name, xlabel="training (%)")
        panels[0].set_ylabel("coherence of samples,\nmean over neurons")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def summary(found: xr.Dataset) -> str:
    """Accuracies; T and AUM by the size of a pattern; areas under the ROC curve, means over seeds."""
    reached = [["", "test accuracy", "labels fitted"]]
    for name in found.training_set.values:
        at = found.sel(training_set=name)
        reached.append([str(name), f"{float(at.accuracy.mean()):.1%}", f"{float(at.fitted.mean()):.1%}"])
    listed = claims.sizes_of(found)
    times, aum = (claims.by_population(found, name).mean("seed") for name in ("sided_from", "aum"))
    planted = [["", *(f"T, {site}" for site in found.site.values), "AUM"]]
    for pattern, margin in enumerate(aum.values):
        by_layer = [f"{value:.0f}" for value in times.isel(pattern=pattern).values]
        said = f"{PATTERNS[pattern // len(listed)]} x {listed[pattern % len(listed)]}"
        planted.append([said, *by_layer, f"{margin:.2f}"])
    areas = [["area under the ROC curve", *claims.DETECTORS]]
    for name in claims.noisy(found):
        of = claims.detection(found, name)
        areas.append([name, *(f"{of[score].mean():.3f}" for score in claims.DETECTORS)])
    return "\n".join(aligned(*rows) for rows in (reached, planted, areas))
