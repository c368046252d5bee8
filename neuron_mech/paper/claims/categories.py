"""Claims 5 to 7: what a neuron's two categories are, and how they come apart."""

from __future__ import annotations

import dataclasses

import numpy as np

from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims.claim import Claim, Condition, Control, untested
from neuron_mech.paper.claims.estimates import estimate, lead
from neuron_mech.paper.claims.findings import Findings, label


def categories_separate(found: Findings) -> Claim:
    """Claim 5."""
    base = Claim(
        5,
        "figures 2, 6, 7",
        "Low and high categories separate during training, but not completely",
        "AUC above that at the start, and below 0.99 at the end",
        "learning_dynamics.nc",
    )
    if not found.dynamics:
        return untested(base)
    conditions = []
    for site in map(str, found.dynamics[0].site.values):
        end = [d.auc.sel(partition="own", neuron_site=site).values[-1] for d in found.dynamics]
        conditions.append(_separated(found, site))
        conditions.append(
            Condition("AUC at the end", label(found.dynamics[0], site), estimate(end), "<", 0.99, unit="")
        )
    return dataclasses.replace(base, conditions=tuple(conditions))


def _separated(found: Findings, site: str) -> Condition:
    """The rise of a site's AUC over training, against that of another neuron's categories."""
    own, other = (
        [np.subtract(*d.auc.sel(partition=kind, neuron_site=site).values[[-1, 0]]) for d in found.dynamics]
        for kind in ("own", "another neuron's")
    )
    control = Control("another neuron's categories", estimate(other).value, lead(own, other))
    return Condition("AUC raised by", label(found.dynamics[0], site), estimate(own), ">", 0.0, (control,), unit="")


def no_translation(found: Findings) -> Claim:
    """Claim 6."""
    base = Claim(
        6,
        "figures 2, 6, 7",
        "The separation is no mere translation of the distribution",
        "neither translation nor scaling changes AUC, and after them the start would explain all variance: below 90 %",
        "learning_dynamics.nc",
    )
    if not found.dynamics:
        return untested(base)
    conditions = []
    for site in map(str, found.dynamics[0].site.values):
        start = [d.variance.sel(neuron_site=site).values[-1, 0] for d in found.dynamics]
        what = "final variance that the start explains"
        conditions.append(_separated(found, site))
        conditions.append(Condition(what, label(found.dynamics[0], site), estimate(start), "<", 0.9))
    return dataclasses.replace(base, conditions=tuple(conditions))


def classes_are_whole(found: Findings) -> Claim:
    """Claim 7."""
    base = Claim(
        7,
        "figure 8",
        "A class is mostly wholly in or wholly out of a category",
        "wholly: at most 5 % on the other side; “mostly” read as more than half of (neuron, class)",
        "class_consistency.nc",
    )
    if not found.classes:
        return untested(base)
    last = found.classes[0].site.values[-1]

    def whole(found: xr.Dataset, name: str) -> np.ndarray:
        share = found[name].sel(neuron_site=last).values
        return np.where(np.isnan(share), np.nan, (share <= 0.05) | (share >= 0.95)).mean(1)

    own, dealt = ([whole(c, name) for c in found.classes] for name in ("low_share", "permuted_low_share"))
    control = Control("labels dealt at random", estimate(dealt).value, lead(own, dealt))
    where = found.classes[0].site_label.sel(site=last).item()
    return dataclasses.replace(
        base, conditions=(Condition("classes wholly in or out", where, estimate(own), ">", 0.5, (control,)),)
    )
