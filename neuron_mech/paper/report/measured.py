"""What the report says of this run: sentences made of its result files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims import Findings

Sentences = Callable[[Findings], list[str]]


def constancy(found: Findings) -> list[str]:
    """The share of constant signs at each site."""
    said = []
    for signs in found.signs[:1]:
        shares = ", ".join(
            f"{signs.label.sel(site=s).item()} {signs.constancy.sel(site=s).item():.0%}" for s in _sites(signs)
        )
        said.append(f"Constant signs: {shares}.")
    return said


def training(found: Findings) -> list[str]:
    """How good each seed's network is."""
    return [
        f"Seed {train.attrs.get('seed', 0)}: {float(train.train_accuracy[-1]):.2%} of training and "
        f"{float(train.test_accuracy[-1]):.2%} of test samples are right after {train.sizes['epoch']} epochs."
        for train in found.train
    ]


def saturation(found: Findings) -> list[str]:
    """Constancy before and after training accuracy saturated."""
    said = []
    for signs in found.signs[:1]:
        for site in _sites(signs):
            before, after = signs.constancy_by_phase.sel(site=site).values
            if np.isfinite(after):
                label = signs.label.sel(site=site).item()
                said.append(f"{label}: {before:.1%} constant before training accuracy saturated, {after:.1%} after.")
    return said


def numerics(found: Findings) -> list[str]:
    """How many signs arithmetic decides, by objective."""
    said = []
    for signs in found.signs[:1]:
        for objective in signs.objective.values:
            at = signs.sel(objective=objective)
            wrong, lost, zero = (
                ", ".join(f"{100 * share:.2f}" for share in at[n].values)
                for n in ("wrong_sign", "lost_sign", "zero_share")
            )
            said.append(
                f"{objective}: against double precision {wrong} % of signs are wrong and {lost} % lost at the end of "
                f"training; over the run {zero} % of derivatives were zero (by site)."
            )
    return said


def controls(found: Findings) -> list[str]:
    """Constancy of the controls."""
    said = []
    for of in found.controls[:1]:
        for name in of.control.values[1:]:
            at = of.sel(control=name)
            shares = ", ".join(f"{share:.1%}" for share in at.constancy.values)
            fitted = "" if name != "random-labels" or bool(at.fitted) else " (not fitted: this says nothing)"
            said.append(f"{name}: {shares} constant{fitted}.")
    return said


def separation(found: Findings) -> list[str]:
    """How far the categories come apart at each site."""
    said = []
    for dynamics in found.dynamics[:1]:
        ends = (
            f"{dynamics.label.sel(site=s).item()} from {dynamics.first_separation.sel(site=s).item():.2f} to "
            f"{dynamics.separation.sel(site=s).item():.2f}"
            for s in _sites(dynamics)
        )
        said.append(f"Mean AUC, from the start to the end: {', '.join(ends)}.")
    return said


def classes(found: Findings) -> list[str]:
    """The share of classes wholly in or out of a category, at each site."""
    said = []
    for of in found.classes[:1]:
        shares = ", ".join(f"{of.site_label.sel(site=s).item()} {of.wholly.sel(site=s).item():.0%}" for s in _sites(of))
        said.append(f"Classes wholly in or out of a neuron's category: {shares}.")
    return said


def predictions(found: Findings) -> list[str]:
    """How well a category is predicted, by what."""
    said = []
    for of in found.classes[:1]:
        for site in _sites(of):
            by = of.agreement.sel(neuron_site=site).mean("neuron_index")
            said.append(
                f"{of.site_label.sel(site=site).item()}: of the final categories "
                + ", ".join(f"{float(by.sel(predictor=kind)):.1%} by {kind}" for kind in of.predictor.values)
                + "."
            )
    return said


def two_values(found: Findings) -> list[str]:
    """Accuracy with two values a neuron, at its best and worst rank."""
    said = []
    if (codes := found.quantization) is not None:
        for site in _sites(codes):
            curve = codes.accuracy.sel(site=site)
            said.append(
                f"{codes.label.sel(site=site).item()}: {float(codes.original_accuracy):.1%} as it is, from "
                f"{float(curve.min()):.1%} to {float(curve.max()):.1%} with two values, best at rank "
                f"{float(curve.idxmax('percentile_rank')):.0f}."
            )
    return said


def windows(found: Findings) -> list[str]:
    """Accuracy through windows at the middle and at the ends, at each site."""
    said = []
    if (codes := found.binarization) is not None:
        for site in _sites(codes):
            curve = codes.accuracy.sel(site=site)
            curve = curve.sel(source="trained") if "source" in curve.dims else curve
            curve = curve.dropna("window_center")
            if curve.size:
                middle, label = curve.sel(window_center=50, method="nearest"), codes.label.sel(site=site).item()
                said.append(
                    f"{label}: {float(curve[0]):.1%} and {float(curve[-1]):.1%} at the ends, {float(middle):.1%} at "
                    f"rank {float(middle.window_center):.0f}."
                )
    return said


def information(found: Findings) -> list[str]:
    """What the median neuron's best bit holds of what its value holds."""
    said = []
    if (codes := found.quantization) is not None:
        for site in _sites(codes):
            at = codes.sel(neuron_site=site)
            bit, whole = (at[f"{kind}_information_by_seed"].values for kind in ("code", "value"))
            said.append(
                f"{codes.label.sel(site=site).item()}: the median neuron's best bit holds "
                f"{np.median(bit / np.maximum(whole, 1e-9)):.0%} of what its whole value says about the label."
            )
    return said


def _sites(found: xr.Dataset) -> list[str]:
    return [str(site) for site in found.site.values]
