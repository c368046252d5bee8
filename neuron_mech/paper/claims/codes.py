"""Claims 8 to 11: two values a neuron, and one window of its range."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims.claim import Claim, Condition, Control, untested
from neuron_mech.paper.claims.estimates import accuracy, accuracy_lead, estimate, lead, twice
from neuron_mech.paper.claims.findings import Findings, label


def two_values_suffice(found: Findings) -> Claim:
    """Claim 8."""
    base = Claim(
        8,
        "figure 3, table 1",
        "Networks are robust to two-value quantization, more so at higher ranks",
        "“robust” read as 90 % of the accuracy kept, on average over ranks 10 to 90",
        "quantization.nc",
    )
    codes = found.quantization
    if codes is None:
        return untested(base)
    samples, conditions = int(codes.attrs["test_samples"]), []
    inner = codes.sel(percentile_rank=slice(1, 99))
    low, high = (inner.percentile_rank.values < 50, inner.percentile_rank.values > 50)
    if not low.any() or not high.any():
        return untested(base, "ranks on both sides of 50 are needed")
    for site in map(str, codes.site.values):
        at, where = inner.sel(site=site), label(codes, site)
        original = codes.original_accuracy_by_seed.values
        if not (original > 0).all():
            return untested(base, "the network as it is gets nothing right")
        kept, noise = (
            np.clip(at[f"{name}_by_seed"].mean("percentile_rank").values / original, 0, 1)
            for name in ("accuracy", "noise_accuracy")
        )
        curve = at.accuracy_by_seed.values
        upper, lower = curve[:, high].mean(1), curve[:, low].mean(1)
        control = Control("noise of equal error", float(noise.mean()), accuracy_lead(kept, noise, samples))
        conditions.append(Condition("accuracy kept", where, accuracy(kept, samples), ">", 0.9, (control,)))
        conditions.append(
            Condition(
                "more above rank 50 than below by", where, accuracy_lead(upper, lower, samples), ">", 0.0, unit="points"
            )
        )
    return dataclasses.replace(base, conditions=tuple(conditions))


def ends_tell_more(found: Findings) -> Claim:
    """Claim 9."""
    base = Claim(
        9,
        "figure 4",
        "Window accuracy rises with distance from rank 50, symmetrically",
        "the outermost windows above the middle ones; the two sides apart by less than half of that",
        "binarization.nc",
    )
    return _of_windows(found, base, _rise)


def _rise(at: xr.Dataset, where: str, samples: int) -> list[Condition]:
    center = at.window_center.values
    ends, middle = center[[0, -1]], center[np.argsort(np.abs(center - 50), kind="stable")[:2]]

    def sides(source: str) -> tuple[np.ndarray, np.ndarray]:
        curve = at.accuracy_by_seed.sel(source=source)
        return tuple(curve.sel(window_center=w).mean("window_center").values for w in (ends, middle))

    top, bottom = sides("trained")
    controls = []
    for source, name in _SOURCES.items():
        high, low = sides(source)
        if np.isfinite(high).all() and np.isfinite(low).all():
            # As likely as the accuracies they are made of: half of the difference of differences has their spread.
            ahead = twice(accuracy_lead((top + low) / 2, (bottom + high) / 2, samples))
            controls.append(Control(name, float((high - low).mean()), ahead))
    rise = accuracy_lead(top, bottom, samples)
    curve = at.accuracy_by_seed.sel(source="trained").values
    uneven = np.abs(curve - curve[:, ::-1]).mean(1)
    half = Condition("sides apart by", where, accuracy(uneven, samples), "<", rise.value / 2, unit="points")
    return [Condition("ends above the middle by", where, rise, ">", 0.0, tuple(controls), "points"), half]


def middle_tells_something(found: Findings) -> Claim:
    """Claim 10."""
    base = Claim(
        10,
        "figure 4",
        "At rank 50 window accuracy is still above chance",
        "chance is the share of the test set's most frequent label",
        "binarization.nc",
    )
    return _of_windows(found, base, _middle)


def _middle(at: xr.Dataset, where: str, samples: int) -> list[Condition]:
    center = at.window_center.values
    nearest = center[np.argsort(np.abs(center - 50), kind="stable")[:2]]
    of = {
        source: at.accuracy_by_seed.sel(source=source, window_center=nearest).mean("window_center").values
        for source in ("trained", *_SOURCES)
    }
    own = of["trained"]
    controls = tuple(
        Control(name, float(of[source].mean()), accuracy_lead(own, of[source], samples))
        for source, name in _SOURCES.items()
        if np.isfinite(of[source]).all()
    )
    return [Condition("accuracy in the middle", where, accuracy(own, samples), ">", float(at.chance), controls)]


_SOURCES = {"untrained": "untrained neurons", "projection": "a random projection"}


def _of_windows(
    found: Findings, base: Claim, conditions_at: Callable[[xr.Dataset, str, int], list[Condition]]
) -> Claim:
    windows = found.binarization
    if windows is None:
        return untested(base)
    samples, conditions = int(windows.attrs["test_samples"]), []
    for site in map(str, windows.site.values):
        at = windows.sel(site=site)
        # The windows that are finished, as far as they lie symmetrically about rank 50.
        done = at.window_center[np.isfinite(at.accuracy_by_seed.sel(source="trained")).all("seed")].values
        at = at.sel(window_center=done[np.isin(100 - done, done)])
        if at.sizes["window_center"] < 4:
            continue
        first, *others = conditions_at(at, label(windows, site), samples)
        if first.controls:  # a shape that nothing is held against says nothing of what was learnt
            conditions += [first, *others]
    return dataclasses.replace(
        base,
        conditions=tuple(conditions),
        untested="" if conditions else "four windows, symmetrical about rank 50, and a control's are needed",
    )


def rank_of_threshold(found: Findings) -> Claim:
    """Claim 11."""
    base = Claim(
        11,
        "table 1",
        "The rank of the ReLU threshold is nearly the same for all neurons in the last layer, and not at 50 in general",
        "“nearly the same” read as within 15 ranks on average (the paper's last layers: 12, 2.2, 2.8); 5 ranks from 50",
        "quantization.nc",
    )
    codes = found.quantization
    if codes is None:
        return untested(base)
    labels = [label(codes, str(site)) for site in codes.site.values]
    if not labels[-1].endswith("-relu"):
        return untested(base, "the network has no ReLU")
    last = str(codes.site.values[-1])
    own, before = (
        [np.abs(row - row.mean()) for row in codes[name].sel(neuron_site=last).values]
        for name in ("zero_rank_by_seed", "untrained_zero_rank_by_seed")
    )
    control = Control("before training", estimate(before).value, lead(before, own))
    narrow = Condition("mean distance from the neurons' mean", labels[-1], estimate(own), "<", 15, (control,), "ranks")
    away = []
    for site, where in zip(map(str, codes.site.values), labels, strict=True):
        rank = [row - 50 for row in codes.zero_rank_by_seed.sel(neuron_site=site).values]
        mean = estimate(rank)
        sign = np.sign(mean.value) or 1.0
        away.append(
            Condition("mean rank away from 50 by", where, estimate([sign * r for r in rank]), ">", 5, unit="ranks")
        )
    farthest = max(away, key=lambda condition: condition.value.value)
    return dataclasses.replace(base, conditions=(narrow, farthest))
