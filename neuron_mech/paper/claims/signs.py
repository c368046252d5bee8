"""Claims 1 to 4: the signs of activation gradients."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims.claim import Claim, Condition, Control, untested
from neuron_mech.paper.claims.estimates import Estimate, estimate, lead, lead_of_others, minus
from neuron_mech.paper.claims.findings import Findings, label

CONSTANCY = ("neuron_constancy", "neuron_independent_constancy")
"""Of each neuron: measured, and expected of independent signs."""


def _by_neuron(files: Sequence[xr.Dataset], name: str, site: str) -> list[np.ndarray]:
    """A variable at the neurons of a site, of each of several seeds' result files."""
    return [file[name].sel(neuron_site=site).values for file in files]


def near_output(found: Findings) -> Claim:
    """Claim 1."""
    base = Claim(
        1,
        "figures 1, 5",
        "Near the output the average sign is ±1 for most (sample, neuron) pairs",
        "“most” read as more than half; constant is |average sign| > 0.9",
        "gradient_signs.nc",
    )
    if not found.signs:
        return untested(base)
    site = str(found.signs[0].site.values[-1])
    own, independent = (_by_neuron(found.signs, name, site) for name in CONSTANCY)
    controls = [Control("independent signs", estimate(independent).value, lead(own, independent))]
    if found.controls:
        controls.append(_random_labels(found, site))
    value = Condition("constant", label(found.signs[0], site), estimate(own), ">", 0.5, tuple(controls))
    return dataclasses.replace(base, conditions=(value,))


def _random_labels(found: Findings, site: str) -> Control:
    """Constancy with random labels, once they are fitted, against the same training with the true ones."""
    kept = [c for c in found.controls if {"random-labels", "true-labels"} <= set(c.control.values)]
    if not kept:
        return Control("random labels (not run)", float("nan"), None)
    random, true = (
        [c.neuron_constancy.sel(control=k, neuron_site=site).values for c in kept]
        for k in ("random-labels", "true-labels")
    )
    value = estimate(random).value
    if not all(bool(c.fitted.sel(control="random-labels")) for c in kept):
        reached = min(float(c.train_accuracy.sel(control="random-labels")) for c in kept)
        return Control(f"random labels (fitted to {reached:.0%} only, so they say nothing)", value, None)
    return Control(
        f"random labels, fitted (true ones trained alike {estimate(true).value:.1%})", value, lead(true, random)
    )


def halves(found: Findings) -> Claim:
    """Claim 2."""
    base = Claim(
        2,
        "figure 5",
        "About half of the samples are low and half high, per neuron",
        "“about half” read as 40 to 60 % in most neurons",
        "gradient_signs.nc, class_consistency.nc",
    )
    if not found.signs:
        return untested(base)

    def balanced(share: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(share), np.nan, np.abs(share - 0.5) <= 0.1)

    conditions = []
    for site in map(str, found.signs[0].site.values):
        own = [balanced(share) for share in _by_neuron(found.signs, "neuron_low_share", site)]
        controls: tuple[Control, ...] = ()
        if len(found.classes) == len(found.signs):
            first = [balanced(share) for share in _by_neuron(found.classes, "first_low_share", site)]
            controls = (Control("by the first recording alone", estimate(first).value, lead(own, first)),)
        where = label(found.signs[0], site)
        conditions.append(Condition("neurons with 40 to 60 % low", where, estimate(own), ">", 0.5, controls))
    return dataclasses.replace(base, conditions=tuple(conditions))


def falls_with_distance(found: Findings) -> Claim:
    """Claim 3."""
    base = Claim(
        3,
        "figures 1, 5",
        "Constancy falls with distance from the output",
        "each site above the one before it",
        "gradient_signs.nc",
    )
    if not found.signs:
        return untested(base)
    sites = [str(site) for site in found.signs[0].site.values]
    if len(sites) < 2:
        return untested(base, "only one site was recorded")
    conditions = []
    for early, late in itertools.pairwise(sites):
        before = [
            np.atleast_1d(np.diff(s.constancy_by_phase.sel(phase="before", site=[early, late]).values))
            for s in found.signs
        ]
        own, independent = (
            lead_of_others(*(_by_neuron(found.signs, name, site) for site in (late, early))) for name in CONSTANCY
        )
        phase = estimate(before) if len(before) > 1 else Estimate(float(before[0][0]), float(before[0][0]), np.inf, "")
        controls = (
            Control("independent signs", independent.value, minus(own, independent)),
            Control("recordings before saturation", phase.value, phase),
        )
        where = f"{label(found.signs[0], late)} over {label(found.signs[0], early)}"
        conditions.append(Condition("more constant by", where, own, ">", 0.0, controls, "points"))
    return dataclasses.replace(base, conditions=tuple(conditions))


def linear_is_clearer(found: Findings) -> Claim:
    """Claim 4."""
    base = Claim(
        4,
        "figures 1, 5",
        "The linear network's signal is clearer than the ReLU network's in early layers",
        "the linear network more constant at every site but the last",
        "gradient_signs.nc of both networks",
    )
    labels = [str(name) for signs in found.signs[:1] for name in signs.label.values]
    kind = labels[0].rpartition("-")[2] if labels else ""
    if kind not in ("relu", "linear") or not found.beside:
        return untested(base, "it compares a linear network with a ReLU one: run both, side by side")
    linear, relu = (found.signs, found.beside) if kind == "linear" else (found.beside, found.signs)
    seeds = min(len(linear), len(relu))
    conditions = []
    for site in map(str, found.signs[0].site.values[:-1]):
        if site not in found.beside[0].site:
            continue
        value, expected = (
            lead_of_others(*(_by_neuron(part[:seeds], name, site) for part in (linear, relu))) for name in CONSTANCY
        )
        control = Control("independent signs", expected.value, minus(value, expected))
        conditions.append(Condition("linear more constant by", site, value, ">", 0.0, (control,), "points"))
    return dataclasses.replace(base, conditions=tuple(conditions))
