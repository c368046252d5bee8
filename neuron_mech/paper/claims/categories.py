"""Claims 5 to 7: what a neuron's two categories are, and how they come apart."""

from __future__ import annotations

import dataclasses
from statistics import NormalDist

import numpy as np

from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims.claim import Claim, Condition, Null, Scope, condition, null, untested
from neuron_mech.paper.claims.estimates import mean
from neuron_mech.paper.claims.findings import Findings, label
from neuron_mech.paper.claims.signs import means

CLEAR = round(NormalDist().cdf(0.5 / 2**0.5), 3)
"""AUC of two normal distributions half a standard deviation apart (Cohen's d = 1/2, a medium effect): 0.638."""

TOLERANCES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Shares of a class on the other side up to which it counts as wholly in or out."""


def categories_separate(found: Findings) -> Claim:
    """Claim 5."""
    base = Claim(
        5,
        "figures 2, 6, 7",
        "Low and high categories separate during training, but not completely",
        "AUC at the end above 0.638 (Cohen's d = ½), and below 0.99",
        "the same categories before the first step",
        "learning_dynamics.nc",
    )
    if not found.dynamics:
        return untested(base)
    conditions: list[Condition] = []
    sites = [str(site) for site in reversed(found.dynamics[0].site.values)]
    for site in sites:
        scope: Scope = "paper" if site == sites[0] else "beyond"
        own = _auc(found.dynamics, "own", site, -1)
        where, what = label(found.dynamics[0], site), "AUC at the end"
        conditions.append(_clear(what, where, own, _controls(found, site, own), scope))
        if scope == "paper":
            conditions.append(condition(what, where, own, "<", 0.99, unit=""))
        for name, said in (
            ("half_auc", "AUC at the end, categories of the first half of training"),
            ("position_mean_auc", "AUC at the end of the mean over positions"),
        ):
            values = means(found.dynamics, name, site)
            if np.isfinite(values).any():
                conditions.append(_clear(said, where, values, (), "beyond"))
    return dataclasses.replace(base, conditions=tuple(conditions))


def _clear(what: str, where: str, values: list[float], nulls: tuple[Null, ...], scope: Scope) -> Condition:
    return condition(what, where, values, ">", CLEAR, nulls=nulls, unit="", scope=scope)


def _auc(files: list[xr.Dataset], partition: str, site: str, row: int) -> list[float]:
    return [mean(d.auc.sel(partition=partition, neuron_site=site).values[row]) for d in files]


def _controls(found: Findings, site: str, own: list[float]) -> tuple[Null, ...]:
    start, other = _auc(found.dynamics, "own", site, 0), _auc(found.dynamics, "another neuron's", site, -1)
    classes = means(found.dynamics, "class_auc", site)
    return (
        null("before the first step", "AUC at the end", own, start),
        null("another neuron's categories", "AUC at the end", own, other, False),
        null("each class in the category of most of it", "AUC at the end", own, classes, False),
    )


def no_translation(found: Findings) -> Claim:
    """Claim 6."""
    base = Claim(
        6,
        "figures 2, 6, 7",
        "The separation is no mere translation of the distribution",
        "of what the finally highest tenth of the high category lies above rank 50, more than a tenth was climbed",
        "none is known: any change of order makes the finally highest climb",
        "learning_dynamics.nc",
    )
    if not found.dynamics:
        return untested(base)
    separated = categories_separate(found).judged().verdict
    conditions = []
    sites = [str(site) for site in reversed(found.dynamics[0].site.values)]
    for site in sites:
        start, end = (means(found.dynamics, f"highest_rank_{when}", site) for when in ("start", "end"))
        climbed = [(b - a) / (b - 50) for a, b in zip(start, end, strict=True)]
        scope: Scope = "paper" if site == sites[0] and separated == "supported" else "beyond"
        what = "climbed share of the finally highest's rank"
        conditions.append(condition(what, label(found.dynamics[0], site), climbed, ">", 0.1, scope=scope))
    reason = "" if separated == "supported" else f"it speaks of the separation of claim 5, which is {separated}"
    return dataclasses.replace(base, conditions=tuple(conditions), untested=reason)


def wholly(share: np.ndarray, tolerance: float) -> float:
    """Share of (neuron, class) with at most `tolerance` of the class on the other side; NaN left out."""
    return mean(np.where(np.isnan(share), np.nan, np.minimum(share, 1 - share) <= tolerance + 1e-9))


def classes_are_whole(found: Findings) -> Claim:
    """Claim 7."""
    base = Claim(
        7,
        "figure 8",
        "A class is mostly wholly in or wholly out of a category (dense2-relu)",
        "wholly: in the end bins of figure 8's ten, at most 10 % on the other side; “mostly”: more than half",
        "the categories that the first recording alone would give",
        "class_consistency.nc",
    )
    if not found.classes:
        return untested(base)
    conditions: list[Condition] = []
    what = "classes wholly in or out"
    sites = [str(site) for site in reversed(found.classes[0].site.values)]
    for site in sites:
        where = str(found.classes[0].site_label.sel(site=site).item())
        shares = {
            name: [c[name].sel(neuron_site=site).values for c in found.classes]
            for name in ("low_share", "first_low_share_by_class", "permuted_low_share")
        }
        own = [wholly(share, 0.1) for share in shares["low_share"]]
        nulls = tuple(
            null(said, what, own, [wholly(share, 0.1) for share in shares[name]], decides)
            for name, said, decides in (
                ("first_low_share_by_class", "by the first recording alone", True),
                ("permuted_low_share", "labels dealt at random", False),
            )
        )
        curve = tuple((t, float(np.mean([wholly(s, t) for s in shares["low_share"]]))) for t in TOLERANCES)
        scope: Scope = "paper" if site == sites[0] and where == "dense2-relu" else "beyond"
        conditions.append(
            condition(what, where, own, ">", 0.5, nulls=nulls, scope=scope, curve=curve, curve_of="tolerance")
        )
    reason = "" if any(c.scope == "paper" for c in conditions) else "the paper says it of dense2-relu"
    return dataclasses.replace(base, conditions=tuple(conditions), untested=reason)
