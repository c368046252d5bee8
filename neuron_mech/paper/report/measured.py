"""What the report says of this run: sentences made from its result files, none where a file is missing.

Of several seeds the first is described.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims import Findings

Sentences = Callable[[Findings], Iterator[str]]


def nothing(found: Findings) -> Iterator[str]:
    """No sentence: for figures that speak for themselves."""
    yield from ()


def constancy(found: Findings) -> Iterator[str]:
    """The share of constant signs at each site."""
    for signs in found.signs[:1]:
        shares = (f"{label} {at.constancy.item():.0%}" for label, at in _by_site(signs))
        yield f"Constant signs: {', '.join(shares)}."


def training(found: Findings) -> Iterator[str]:
    """The final accuracies of each seed's network."""
    for train in found.train:
        yield (
            f"Seed {train.attrs.get('seed', 0)}: {float(train.train_accuracy[-1]):.2%} of training and "
            f"{float(train.test_accuracy[-1]):.2%} of test samples are right after {train.sizes['epoch']} epochs."
        )


def saturation(found: Findings) -> Iterator[str]:
    """Constancy before and after training accuracy saturated."""
    for signs in found.signs[:1]:
        for label, at in _by_site(signs):
            before, after = at.constancy_by_phase.values
            if np.isfinite(after):
                yield f"{label}: {before:.1%} constant before training accuracy saturated, {after:.1%} after."


def numerics(found: Findings) -> Iterator[str]:
    """How many signs the arithmetic decides, by objective."""
    for signs in found.signs[:1]:
        for objective in signs.objective.values:
            at = signs.sel(objective=objective)
            wrong, lost, zero = (
                ", ".join(f"{100 * share:.2f}" for share in at[name].values)
                for name in ("wrong_sign", "lost_sign", "zero_share")
            )
            yield (
                f"{objective}: against double precision {wrong} % of signs are wrong and {lost} % lost at the end of "
                f"training; over the run {zero} % of derivatives were zero (by site)."
            )


def controls(found: Findings) -> Iterator[str]:
    """Constancy of the controls."""
    for of in found.controls[:1]:
        for name in of.control.values[1:]:
            at = of.sel(control=name)
            shares = ", ".join(f"{share:.1%}" for share in at.constancy.values)
            fitted = "" if name != "random-labels" or bool(at.fitted) else " (not fitted: this says nothing)"
            yield f"{name}: {shares} constant{fitted}."


def separation(found: Findings) -> Iterator[str]:
    """How far the categories come apart at each site."""
    for dynamics in found.dynamics[:1]:
        ends = (
            f"{label} from {at.first_separation.item():.2f} to {at.separation.item():.2f}"
            for label, at in _by_site(dynamics)
        )
        yield f"Mean AUC, from the start to the end: {', '.join(ends)}."


def classes(found: Findings) -> Iterator[str]:
    """The share of classes wholly in or out of a category, at each site."""
    for of in found.classes[:1]:
        shares = (f"{label} {at.wholly.item():.0%}" for label, at in _by_site(of, "site_label"))
        yield f"Classes wholly in or out of a neuron's category: {', '.join(shares)}."


def predictions(found: Findings) -> Iterator[str]:
    """How well each predictor tells a neuron's final categories, at each site."""
    for of in found.classes[:1]:
        for label, at in _by_site(of, "site_label"):
            by = of.agreement.sel(neuron_site=at.site.item()).mean("neuron_index")
            shares = (f"{float(by.sel(predictor=name)):.1%} by {name}" for name in of.predictor.values)
            yield f"{label}: of the final categories {', '.join(shares)}."


def two_values(found: Findings) -> Iterator[str]:
    """Accuracy with two values a neuron, at its best and worst rank."""
    if found.quantization is not None:
        for label, at in _by_site(found.quantization):
            curve = at.accuracy
            yield (
                f"{label}: {float(at.original_accuracy):.1%} as it is, from {float(curve.min()):.1%} to "
                f"{float(curve.max()):.1%} with two values, best at rank {float(curve.idxmax('percentile_rank')):.0f}."
            )


def windows(found: Findings) -> Iterator[str]:
    """Accuracy through windows at the middle and at the ends, at each site."""
    if found.binarization is not None:
        for label, at in _by_site(found.binarization):
            curve = at.accuracy.dropna("window_center")
            if curve.size:
                middle = curve.sel(window_center=50, method="nearest")
                yield (
                    f"{label}: {float(curve[0]):.1%} and {float(curve[-1]):.1%} at the ends, {float(middle):.1%} at "
                    f"rank {float(middle.window_center):.0f}."
                )


def information(found: Findings) -> Iterator[str]:
    """How much of its value's information about the label the median neuron's best bit holds."""
    if found.quantization is not None:
        for label, at in _by_site(found.quantization):
            at = at.sel(neuron_site=at.site.item())
            bit, whole = (at[f"{name}_information_by_seed"].values for name in ("code", "value"))
            yield (
                f"{label}: the median neuron's best bit holds {np.median(bit / np.maximum(whole, 1e-9)):.0%} of what "
                "its whole value says about the label."
            )


def _by_site(dataset: xr.Dataset, label: str = "label") -> Iterator[tuple[str, xr.Dataset]]:
    """(label, the dataset at this site) of every site; single neurons stay those of all sites."""
    for site in dataset.site.values:
        at = dataset.sel(site=site)
        yield at[label].item(), at
