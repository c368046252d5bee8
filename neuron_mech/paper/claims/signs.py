"""Claims 1 to 4: the signs of activation gradients."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from neuron_mech.lazily import stats
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims.claim import Claim, Condition, Null, Scope, condition, difference, null, untested
from neuron_mech.paper.claims.estimates import bootstrapped, estimate, mean
from neuron_mech.paper.claims.findings import Findings, alike, label
from neuron_mech.paper.claims.spread import between_seeds

RANDOM_HALVES = sum(math.comb(10, k) * abs(k / 10 - 0.5) for k in range(11)) / 2**10
"""Mean distance from 1/2 of the share of ten classes in a random subset: E|Bin(10, 1/2)/10 - 1/2| = 0.123."""


def by_neuron(files: Sequence[xr.Dataset], name: str, site: str, **at: str) -> list[np.ndarray]:
    """A variable's values at the neurons of a site, in each seed's result file."""
    return [file[name].sel(at | {"neuron_site": site}).values for file in files]


def means(files: Sequence[xr.Dataset], name: str, site: str, **at: str) -> list[float]:
    """A variable's mean over the neurons of a site, by seed."""
    return [mean(values) for values in by_neuron(files, name, site, **at)]


def near_output(found: Findings) -> Claim:
    """Claim 1."""
    base = Claim(
        1,
        "figures 1, 5",
        "Near the output the average sign is ±1 for most (sample, neuron) pairs",
        "“most” read as more than half; constant is |average sign| > 0.9",
        "equal displacement: the weights moved as far, by the same numbers, in another direction",
        "gradient_signs.nc, equal_displacement.nc",
    )
    if not found.signs:
        return untested(base)
    conditions: list[Condition] = []
    for site in _from_the_output(found):
        own, what = means(found.signs, "neuron_constancy", site), "constant signs"
        where, nulls = label(found.signs[0], site), (*displaced(found, site), *random_labels(found, site))
        curve = sum(s.constancy_curve.sel(site=site) for s in found.signs) / len(found.signs)
        points = {"curve": tuple((float(at.level), float(at)) for at in curve), "curve_of": "|average sign| at least"}
        scope: Scope = "beyond" if conditions else "paper"
        conditions.append(condition(what, where, own, ">", 0.5, nulls=nulls, scope=scope, **points))
    conditions += _class_sign(found)
    missing = () if found.displacement else ("equal_displacement.nc, for the null: experiments.equal_displacement",)
    return dataclasses.replace(base, conditions=tuple(conditions), missing=missing)


def _from_the_output(found: Findings) -> list[str]:
    return [str(site) for site in reversed(found.signs[0].site.values)]


def displaced(found: Findings, site: str) -> list[Null]:
    """Constancy on weights displaced as far in another direction, against the same recordings as they are."""
    nulls = []
    for name, decides in (("displacement permuted", True), ("displacement permuted, biases too", False)):
        of = [d for d in found.displacement if site in d.site.values]
        if of:
            own, other = (means(of, "neuron_constancy", site, null=kind) for kind in ("as it is", name))
            nulls.append(null(name, "constant signs", own, other, decides))
    return nulls


def random_labels(found: Findings, site: str) -> list[Null]:
    """Constancy with random labels, once they are fitted, against the same training with the true ones."""
    kept = [c for c in found.controls if {"random-labels", "true-labels"} <= set(c.control.values)]
    if not kept:
        return []
    random, true = (means(kept, "neuron_constancy", site, control=k) for k in ("random-labels", "true-labels"))
    if not all(bool(c.fitted.sel(control="random-labels")) for c in kept):
        reached = min(float(c.train_accuracy.sel(control="random-labels")) for c in kept)
        said = f"random labels (fitted to {reached:.0%} only, so they say nothing)"
        return [Null(said, float(np.mean(random)), None, False)]
    said = f"random labels, fitted (true ones trained alike {np.mean(true):.1%})"
    return [null(said, "constant signs", true, random, False)]


def _class_sign(found: Findings) -> list[Condition]:
    """How well the output weights alone, before or after training, predict the last layer's categories."""
    conditions = []
    for when in ("untrained", "trained"):
        predictor, what = f"class sign, {when}", f"categories told by the class sign, {when}"
        of = [c for c in found.classes if predictor in c.predictor.values]
        if of:
            site = str(of[0].site.values[-1])
            right = means(of, "agreement", site, predictor=predictor)
            where = str(of[0].site_label.sel(site=site).item())
            conditions.append(condition(what, where, right, ">", 0.5, scope="beyond"))
    return conditions


def halves(found: Findings) -> Claim:
    """Claim 2."""
    base = Claim(
        2,
        "figure 5",
        "About half of the samples are low and half high, per neuron",
        "mean distance of the low share from ½, against that of the paper's “random subset of classes”, of ten: "
        "E|Bin(10, ½)/10 − ½| = 0.123",
        "the categories that the first recording alone would give",
        "gradient_signs.nc, class_consistency.nc",
    )
    if not found.signs:
        return untested(base)

    def distance(files: Sequence[xr.Dataset], name: str, site: str) -> list[float]:
        return [mean(np.abs(share - 0.5)) for share in by_neuron(files, name, site)]

    conditions: list[Condition] = []
    what = "distance of the low share from ½"
    for site in _from_the_output(found):
        own = distance(found.signs, "neuron_low_share", site)
        nulls: tuple[Null, ...] = ()
        if alike(found.classes, found.signs):
            first = distance(found.classes, "first_low_share", site)
            nulls = (null("by the first recording alone", what, own, first, lower=True),)
        scope: Scope = "beyond" if conditions else "paper"
        where = label(found.signs[0], site)
        conditions.append(condition(what, where, own, "<", RANDOM_HALVES, nulls=nulls, unit="", scope=scope))
    return dataclasses.replace(base, conditions=tuple(conditions))


PAPER_DEPTHS = ("stage0layer0", "stage2layer2", "stage3layer2")
"""The sites of the paper's figures 1 and 5, of its CIFAR-10 networks."""


def falls_with_distance(found: Findings) -> Claim:
    """Claim 3."""
    base = Claim(
        3,
        "figures 1, 5",
        "Constancy falls with distance from the output (CIFAR-10 networks)",
        "each site above the one before it, at the same number of nonzero recordings (50, rarefied)",
        "equal displacement: the same difference on weights moved as far in another direction",
        "gradient_signs.nc",
    )
    if not found.signs:
        return untested(base)
    sites = [str(site) for site in found.signs[0].site.values]
    if len(sites) < 2:
        return untested(base, "only one site was recorded")
    name = "neuron_rarefied_constancy"
    known = all(np.isfinite(s[name]).any() for s in found.signs)
    missing: tuple[str, ...] = ()
    if not known:
        name = "neuron_constancy"
        missing = ("rarefied constancy, for which 50 nonzero recordings are needed",)
    what = "more constant by" + ("" if known else ", not rarefied")
    of_paper = found.network == "cnn" and known
    conditions = []
    chain = [site for site in sites if site in PAPER_DEPTHS] if found.network == "cnn" else sites
    for early, late in itertools.pairwise(chain):
        lead = difference(means(found.signs, name, late), means(found.signs, name, early))
        where = f"{label(found.signs[0], late)} over {label(found.signs[0], early)}"
        scope: Scope = "paper" if of_paper else "beyond"
        nulls = _depth_nulls(found, early, late)
        conditions.append(condition(what, where, lead, ">", 0.0, nulls=nulls, unit="points", scope=scope))
    conditions += _taus(found, sites, name)
    reason = "" if of_paper else "the paper says it of its CIFAR-10 networks" if known else "; ".join(missing)
    return dataclasses.replace(base, conditions=tuple(conditions), untested=reason, missing=missing)


def _depth_nulls(found: Findings, early: str, late: str) -> tuple[Null, ...]:
    of = [d for d in found.displacement if {early, late} <= set(d.site.values)]
    if not of:
        return ()
    own, other = (
        difference(*(means(of, "neuron_constancy", site, null=kind) for site in (late, early)))
        for kind in ("as it is", "displacement permuted")
    )
    return (null("displacement permuted", "more constant by", own, other),)


def before_pooling(site: str) -> bool:
    """Whether max pooling follows a site of the paper's CIFAR-10 networks: most of its derivatives are zero."""
    return site in ("stage0layer2", "stage1layer2", "stage2layer2")


def _taus(found: Findings, sites: Sequence[str], name: str) -> list[Condition]:
    """Kendall's rank correlation of constancy with depth over all recorded sites, those before max pooling apart."""
    conditions = []
    groups = {
        "all layers that no max pooling follows": [s for s in sites if not before_pooling(s)],
        "layers before max pooling": [s for s in sites if before_pooling(s)],
    }
    for where, of in groups.items():
        if len(of) >= 3:
            taus = [kendall([mean(s[name].sel(neuron_site=site).values) for site in of]) for s in found.signs]
            what = "Kendall's τ of constancy with depth"
            conditions.append(condition(what, f"{where} ({len(of)})", taus, ">", 0.0, unit="", scope="beyond"))
    return conditions


def kendall(by_depth: Sequence[float]) -> float:
    """Kendall's τ-b of values with their place in the sequence: 1 where each is above the one before it."""
    return float(stats.kendalltau(np.arange(len(by_depth)), by_depth).statistic)


def linear_is_clearer(found: Findings) -> Claim:
    """Claim 4."""
    base = Claim(
        4,
        "figures 1, 5",
        "The linear network's signal is clearer than the ReLU network's in early layers",
        "the linear network more constant at every site but the last",
        "the same at equal training loss, which the two networks do not reach at the same time",
        "gradient_signs.nc and train.nc of both networks",
    )
    labels = [str(name) for signs in found.signs[:1] for name in signs.label.values]
    kind = labels[0].rpartition("-")[2] if labels else ""
    if kind not in ("relu", "linear") or not found.beside:
        return untested(base, "it compares a linear network with a ReLU one: run both, side by side")
    first, second = (found.signs, found.train), (found.beside, found.train_beside)
    (linear, linear_train), (relu, relu_train) = (first, second) if kind == "linear" else (second, first)
    seeds = min(len(linear), len(relu))
    conditions: list[Condition] = []
    what = "linear more constant by"
    spread = 2**0.5 * between_seeds("constant signs")
    for site in map(str, found.signs[0].site.values[:-1]):
        if site not in found.beside[0].site:
            continue
        one, other = (by_neuron(part[:seeds], "neuron_constancy", site) for part in (linear, relu))
        lone = estimate([mean(one[0]) - mean(other[0])], spread)
        value = bootstrapped(one, other) if seeds > 1 else lone
        nulls: tuple[Null, ...] = ()
        if alike(*(part[:seeds] for part in (linear, linear_train, relu, relu_train))):
            lead = [at_equal_loss((linear[k], linear_train[k]), (relu[k], relu_train[k]), site) for k in range(seeds)]
            if np.isfinite(lead).all():
                nulls = (Null("at equal training loss", float(np.mean(lead)), estimate(lead, spread)),)
        scope: Scope = "paper" if found.network == "cnn" and site in PAPER_DEPTHS else "beyond"
        conditions.append(Condition(what, site, value, ">", 0.0, nulls, "points", scope))
    missing = () if all(c.nulls for c in conditions) else ("train.nc of both networks, for equal training loss",)
    return dataclasses.replace(base, conditions=tuple(conditions), missing=missing)


def at_equal_loss(one: tuple[xr.Dataset, xr.Dataset], other: tuple[xr.Dataset, xr.Dataset], site: str) -> float:
    """Constancy so far of one network less the other's, each at the end of the first epoch at a common training loss.

    The loss is the higher of the two lowest mean losses of an epoch. Arguments: (gradient_signs.nc, train.nc) of each.
    """
    losses = [np.asarray(train.loss).reshape(train.sizes["epoch"], -1).mean(1) for _, train in (one, other)]
    common = max(float(np.min(of)) for of in losses)
    epochs = [int(np.argmax(of <= common)) for of in losses]
    so_far = [
        float(signs.constancy_so_far.sel(site=site)[epoch])
        for (signs, _), epoch in zip((one, other), epochs, strict=True)
    ]
    return so_far[0] - so_far[1]
