"""Claims 8 to 11: two values a neuron, and one window of its range."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from neuron_mech.lazily import stats
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims.claim import Claim, Condition, Scope, condition, null, untested
from neuron_mech.paper.claims.estimates import estimate
from neuron_mech.paper.claims.findings import Findings, label
from neuron_mech.paper.claims.spread import between_seeds

BEYOND = {"cnn": ("stage2layer2",), "resnet50": ()}
"""Sites, by network, that the paper's table 1 and figures 3 and 4 do not show."""
ROBUST_BUT_FOR = ("conv1",)
"""Sites that the paper itself excepts from claim 8."""


def _scope(found: Findings, site: str) -> Scope:
    return "beyond" if site in BEYOND.get(found.network, ()) else "paper"


def kept(accuracy: Float[np.ndarray, "seeds ranks"], whole: Float[np.ndarray, " seeds"], chance: float) -> np.ndarray:
    """K(r) = (accuracy(r) - chance) / (accuracy of the unchanged network - chance), by seed and rank."""
    return (accuracy - chance) / (np.asarray(whole)[:, None] - chance)


def width(ranks: np.ndarray, k: Float[np.ndarray, " ranks"]) -> float:
    """From the lowest to the highest rank at which more than 90 % is kept; 0 where there is none."""
    above = ranks[k > 0.9]
    return float(above.max() - above.min()) if len(above) else 0.0


def _points(levels: np.ndarray, values: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((float(level), float(value)) for level, value in zip(levels, values, strict=True))


def two_values_suffice(found: Findings) -> Claim:
    """Claim 8."""
    base = Claim(
        8,
        "figure 3, table 1",
        "Networks are robust to two-value quantization, with a preference for higher ranks",
        "K(r) = (accuracy − chance)/(whole accuracy − chance): max K above 0.95; ranks with K > 0.9 span more than 50; "
        "mean K of ranks 60–90 above that of 10–40",
        "Gaussian noise of the same mean squared error by neuron",
        "quantization.nc",
    )
    codes = found.quantization
    if codes is None:
        return untested(base)
    if not (codes.original_accuracy_by_seed.values > float(codes.chance.max())).all():
        return untested(base, "the network as it is is no better than chance")
    ranks = codes.percentile_rank.values
    if not ((ranks >= 60) & (ranks <= 90)).any() or not ((ranks >= 10) & (ranks <= 40)).any():
        return untested(base, "ranks from 10 to 40 and from 60 to 90 are needed")
    conditions = _of_ranks(found, codes, "")
    if found.quantization_after is not None:
        conditions += _of_ranks(found, found.quantization_after, ", after the activation function")
    return dataclasses.replace(base, conditions=tuple(conditions))


def _of_ranks(found: Findings, codes: xr.Dataset, after: str) -> list[Condition]:
    conditions = []
    whole, chance, ranks = codes.original_accuracy_by_seed.values, float(codes.chance), codes.percentile_rank.values
    inner = (ranks >= 10) & (ranks <= 90)
    high, low = (ranks >= 60) & inner, (ranks <= 40) & inner
    for site in map(str, codes.site.values):
        where = label(codes, site) + after
        scope: Scope = "beyond" if after or site in ROBUST_BUT_FOR else _scope(found, site)
        k, noise = (
            kept(codes[f"{name}_by_seed"].sel(site=site).values, whole, chance)
            for name in ("accuracy", "noise_accuracy")
        )
        what, mean = "K, mean over ranks 10 to 90", k[:, inner].mean(1)
        nulls = (null("noise of equal error", what, mean, noise[:, inner].mean(1)),)
        curve = {"curve": _points(ranks, k.mean(0)), "curve_of": "percentile rank"}
        span = [width(ranks, row) for row in k]
        lead = k[:, high].mean(1) - k[:, low].mean(1)
        conditions += [
            condition("K, highest", where, k.max(1), ">", 0.95, nulls=nulls, unit="", scope=scope, **curve),
            condition("span of ranks with K > 0.9", where, span, ">", 50.0, unit="ranks", scope=scope),
            condition("K, ranks 60–90 over 10–40 by", where, lead, ">", 0.0, unit="points", scope=scope),
            condition(what, where, mean, ">", 0.5, unit="", scope="beyond"),
        ]
    return conditions


# --- Windows ----------------------------------------------------------------------------------------------------------


def logit(accuracy: np.ndarray, samples: int) -> np.ndarray:
    """Log odds of an accuracy on `samples`, with half a success and half a failure added: finite for 0 and 1 too."""
    right = accuracy * samples + 0.5
    return np.log(right / (samples + 1 - right))


def slope(centers: np.ndarray, logits: np.ndarray) -> float:
    """β: least-squares slope of the logits on |r - 50| / 45."""
    return float(np.polyfit(np.abs(centers - 50) / 45, logits, 1)[0])


def symmetry(logits: np.ndarray) -> float:
    """S = 1 - sum of the antisymmetric part's squares / sum of squared deviations from the mean.

    `logits` are in the order of their window centers, which are symmetric about rank 50. NaN where all are equal.
    """
    uneven = (logits - logits[::-1]) / 2
    total = float(((logits - logits.mean()) ** 2).sum())
    return 1 - float((uneven**2).sum()) / total if total > 0 else float("nan")


_SOURCES = {"untrained": "untrained neurons", "projection": "a random projection"}


def _curves(at: xr.Dataset) -> dict[str, Float[np.ndarray, "seeds windows"]]:
    """{source: accuracies}, the trained network first, of the sources whose windows are all finished."""
    every = {source: at.accuracy_by_seed.sel(source=source).values for source in ("trained", *_SOURCES)}
    return {source: curves for source, curves in every.items() if np.isfinite(curves).all()}


def ends_tell_more(found: Findings) -> Claim:
    """Claim 9."""
    base = Claim(
        9,
        "figure 4",
        "Window accuracy rises with distance from rank 50, symmetrically",
        "slope β of logit(accuracy) on |r − 50|/45 above 0; S = 1 − antisymmetric over total sum of squares above 0.8",
        "β of the untrained network's neurons",
        "binarization.nc",
    )
    return _of_windows(found, base, _rise)


def _rise(at: xr.Dataset, where: str, samples: int, scope: Scope) -> list[Condition]:
    centers, curves = at.window_center.values, _curves(at)
    slopes = {source: [slope(centers, logit(row, samples)) for row in rows] for source, rows in curves.items()}
    own = slopes.pop("trained")
    nulls = tuple(null(_SOURCES[s], "slope β", own, of, s == "untrained") for s, of in slopes.items())
    curve = {"curve": _points(centers, curves["trained"].mean(0)), "curve_of": "window center"}
    symmetries = [symmetry(logit(row, samples)) for row in curves["trained"]]
    return [
        condition("slope β", where, own, ">", 0.0, nulls=nulls, unit="", scope=scope, **curve),
        condition("symmetry S", where, symmetries, ">", 0.8, unit="", scope=scope),
    ]


def middle_tells_something(found: Findings) -> Claim:
    """Claim 10."""
    base = Claim(
        10,
        "figure 4",
        "At rank 50 window accuracy is still above chance",
        "chance is the share of the test set's most frequent label",
        "the untrained network's neurons",
        "binarization.nc",
    )
    return _of_windows(found, base, _middle)


def _middle(at: xr.Dataset, where: str, samples: int, scope: Scope) -> list[Condition]:
    center = at.window_center.values
    nearest = np.argsort(np.abs(center - 50), kind="stable")[:2]
    what = "accuracy in the middle"
    middle = {source: curves[:, nearest].mean(1) for source, curves in _curves(at).items()}
    own = middle.pop("trained")
    nulls = tuple(null(_SOURCES[s], what, own, of, s == "untrained") for s, of in middle.items())
    return [condition(what, where, own, ">", float(at.chance), nulls=nulls, scope=scope)]


def _of_windows(
    found: Findings, base: Claim, conditions_at: Callable[[xr.Dataset, str, int, Scope], list[Condition]]
) -> Claim:
    windows = found.binarization
    if windows is None:
        return untested(base)
    samples, conditions = int(windows.attrs["test_samples"]), []
    for site in map(str, windows.site.values):
        at = windows.sel(site=site)
        # The windows that are finished, as far as they lie symmetrically about rank 50; and the seeds that have them.
        trained = np.isfinite(at.accuracy_by_seed.sel(source="trained"))
        at = at.isel(seed=np.flatnonzero(trained.any("window_center")))
        done = at.window_center[trained.isel(seed=np.flatnonzero(trained.any("window_center"))).all("seed")].values
        at = at.sel(window_center=done[np.isin(100 - done, done)])
        if at.sizes["window_center"] >= 4 and at.sizes["seed"]:
            conditions += conditions_at(at, label(windows, site), samples, _scope(found, site))
    return dataclasses.replace(
        base,
        conditions=tuple(conditions),
        untested="" if conditions else "four windows, symmetrical about rank 50, are needed",
    )


# --- The rank of 0 ----------------------------------------------------------------------------------------------------


def rank_of_threshold(found: Findings) -> Claim:
    """Claim 11."""
    base = Claim(
        11,
        "table 1",
        "The rank of the ReLU threshold is nearly the same for all neurons in the last layer, and not at 50 in general",
        "standard deviation over neurons below 12, table 1's largest of a last layer; a site over 5 ranks from 50",
        "the standard deviation before training",
        "quantization.nc",
    )
    codes = found.quantization
    if codes is None:
        return untested(base)
    sites = [str(site) for site in codes.site.values]
    labels = {site: label(codes, site) for site in sites}
    last = sites[-1]
    if not labels[last].endswith("-relu"):
        return untested(base, "the network has no ReLU")
    what = "standard deviation over neurons of the rank of 0"
    conditions = []
    for site in sites[::-1]:
        own, before = (
            codes[name].sel(neuron_site=site).values.std(1)
            for name in ("zero_rank_by_seed", "untrained_zero_rank_by_seed")
        )
        nulls = (null("before training", what, own, before, lower=True),)
        scope: Scope = "paper" if site == last else "beyond"
        conditions.append(condition(what, labels[site], own, "<", 12, nulls=nulls, unit="ranks", scope=scope))
    conditions.append(_farthest(codes, [site for site in sites if _scope(found, site) == "paper"], labels))
    return dataclasses.replace(base, conditions=tuple(conditions))


def _farthest(codes: xr.Dataset, sites: list[str], labels: dict[str, str]) -> Condition:
    """The site whose mean rank is farthest from 50; the data chose it, so its level is corrected for their number."""
    away = {site: codes.zero_rank_by_seed.sel(neuron_site=site).values.mean(1) - 50 for site in sites}
    site = max(away, key=lambda s: abs(away[s].mean()))
    sign, what = np.sign(away[site].mean()) or 1.0, "mean rank of 0 away from 50 by"
    corrected = float(stats.norm.ppf(1 - 0.025 / len(sites)) / stats.norm.ppf(0.975))
    value = estimate(sign * away[site], corrected * between_seeds(what), 1 - 0.05 / len(sites))
    where = f"{labels[site]}, the farthest of {len(sites)}"
    return Condition(what, where, value, ">", 5, (), "ranks")
