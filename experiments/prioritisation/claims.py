"""Claims 13 and 14, of prioritisation.nc."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.open_questions.findings import Condition, claim
from experiments.prioritisation.planting import PATTERNS
from neuron_mech.lazily import xarray as xr

FILE = "prioritisation.nc"

DETECTORS: dict[str, int] = {
    "aum": -1,
    "forgetting": 1,
    "first_learned": 1,
    "el2n": 1,
    "grand": 1,
    "separation": -1,
    "support": -1,
    "sided_from": 1,
}
"""Scores, and which way they point at a wrong label. Those by site are the last hidden layer's."""


DEALS = 200
"""Times that the planted patterns are dealt to other samples: what a single deal gives depends on a few samples."""


def by_population(found: xr.Dataset, name: str, deal: int | None = None) -> xr.DataArray:
    """Mean of a score over each planted pattern's samples, (..., seed, pattern).

    With `deal`, a number, the score is first dealt at random among the planted samples of the same seed, so that only
    the link between a sample and its pattern is cut.
    """
    at = found.sel(training_set="patterns")
    values, population = (
        at[name].transpose(..., "seed", "sample").values.astype(float),
        at.population.values.astype(int),
    )
    patterns = int(population.max()) + 1
    means = np.full((*values.shape[:-1], patterns), np.nan)
    for seed, members in enumerate(population):
        ids = np.flatnonzero(members >= 0)
        of = values[..., seed, ids]
        if deal is not None:
            of = of[..., np.random.default_rng((seed, deal)).permutation(len(ids))]
        for pattern in range(patterns):
            if (members == pattern).any():
                means[..., seed, pattern] = of[..., members[ids] == pattern].mean(-1)
    dims = tuple(dim for dim in at[name].dims if dim not in ("seed", "sample"))
    return xr.DataArray(means, dims=(*dims, "seed", "pattern"))


def slope(times: np.ndarray, sizes: np.ndarray, covariate: np.ndarray | None = None) -> float:
    """Coefficient of log2(size) in a least-squares fit of the times of patterns, with AUM beside it where given."""
    columns = [np.ones(len(times)), np.log2(sizes)]
    if covariate is not None:
        columns.append(covariate)
    return float(np.linalg.lstsq(np.stack(columns, 1), times, rcond=None)[0][1])


def slopes(found: xr.Dataset, site: str, with_aum: bool, deal: int | None = None) -> np.ndarray:
    """`slope` of each seed, at a site; `deal` as in `by_population`."""
    times = by_population(found, "sided_from", deal).isel(site=list(found.site.values).index(site))
    aum = by_population(found, "aum").values
    listed = sizes_of(found)
    sizes = np.array([listed[pattern % len(listed)] for pattern in range(times.sizes["pattern"])])
    return np.array(
        [slope(of, sizes, aum[seed] if with_aum else None) for seed, of in enumerate(times.values)], np.float64
    )


def sizes_of(found: xr.Dataset) -> list[int]:
    """The sizes of the planted patterns."""
    return [int(size) for size in np.atleast_1d(found.attrs["sizes"])]


def of_wrong(found: xr.Dataset, training_set: str, name: str, seed: int) -> np.ndarray:
    """A score of one seed's samples, by site (of one site or of several) where it has any."""
    at = found.sel(training_set=training_set)[name].isel(seed=seed)
    return at.transpose("sample", ...).values.astype(np.float64)


def detection(found: xr.Dataset, training_set: str) -> dict[str, np.ndarray]:
    """{score: area under the ROC curve as a detector of wrong labels, by seed}; of scikit-learn."""
    from sklearn.metrics import roc_auc_score

    areas = {}
    for name, sign in DETECTORS.items():
        each = []
        for seed in range(found.sizes["seed"]):
            values = of_wrong(found, training_set, name, seed)
            values = values[:, -1] if values.ndim > 1 else values
            each.append(roc_auc_score(of_wrong(found, training_set, "wrong", seed), sign * values))
        areas[name] = np.array(each)
    return areas


FEATURES = ("separation", "separation_end", "sided_from")
"""What is added to AUM, of every layer."""


def gain(found: xr.Dataset, training_set: str, dealt: bool = False) -> np.ndarray:
    """What the features add to AUM's out-of-fold area under the ROC curve, by seed.

    Both by logistic regression on standardised features, in five folds: all that is fitted has not seen the samples it
    is judged on. `dealt`: the features are dealt to other samples first, together, as a null.
    """
    each = []
    for seed in range(found.sizes["seed"]):
        wrong = of_wrong(found, training_set, "wrong", seed).astype(int)
        aum = of_wrong(found, training_set, "aum", seed)[:, None]
        more = np.concatenate([of_wrong(found, training_set, name, seed) for name in FEATURES], 1)
        if dealt:
            more = more[np.random.default_rng(seed).permutation(len(more))]
        each.append(out_of_fold(np.concatenate([aum, more], 1), wrong) - out_of_fold(aum, wrong))
    return np.array(each)


def out_of_fold(features: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the ROC curve of a logistic regression's out-of-fold scores, in five folds of scikit-learn's."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    fitted = make_pipeline(StandardScaler(), LogisticRegression())
    predicted = cross_val_predict(fitted, features, wrong, cv=folds, method="decision_function")
    return float(roc_auc_score(wrong, predicted))


def of_prioritisation(found: xr.Dataset) -> list[dict[str, Any]]:
    """13: common patterns first, AUM or not. 14: separation adds to AUM as a detector of wrong labels."""
    scope = f"a perceptron of {found.attrs['depth']} layers of {found.attrs['neurons']} on {found.attrs['data']}"
    first: list[Condition] = []
    for site in map(str, found.site.values):
        for with_aum in (False, True):
            of = slopes(found, site, with_aum)
            null = np.mean([slopes(found, site, with_aum, deal) for deal in range(DEALS)], 0)
            beside = ", AUM held fixed" if with_aum else ""
            said = f"{site}: recordings that T changes by as a pattern doubles{beside}"
            first.append(Condition(said, of, "<", 0, "patterns dealt to other samples", null - of))
    second = [
        Condition(
            f"{name}: out-of-fold area under the ROC curve, with separation minus without",
            gain(found, name),
            ">",
            0.005,
            "separation dealt to other samples",
            gain(found, name) - gain(found, name, dealt=True),
        )
        for name in noisy(found)
    ]
    return [
        claim("13", "neurons sort common patterns first, beyond what the margin says", FILE, first, scope),
        claim("14", "separation adds to AUM as a detector of wrong labels", FILE, second, scope),
    ]


def noisy(found: xr.Dataset) -> list[str]:
    """The training sets with wrong labels."""
    return [str(name) for name in found.training_set.values if found.sel(training_set=name).wrong.values.any()]


def summary(found: xr.Dataset, areas: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Accuracies; T and AUM by the size of a pattern; areas under the ROC curve, means over seeds."""
    lines = []
    for name in found.training_set.values:
        at = found.sel(training_set=name)
        lines.append(
            f"{name!s:16}test accuracy {float(at.accuracy.mean()):.1%}, labels fitted {float(at.fitted.mean()):.1%}"
        )
    listed = sizes_of(found)
    times, aum = by_population(found, "sided_from").mean("seed"), by_population(found, "aum").mean("seed")
    for pattern in range(aum.sizes["pattern"]):
        kind, size = PATTERNS[pattern // len(listed)], listed[pattern % len(listed)]
        by_layer = ", ".join(f"{value:.0f}" for value in times.isel(pattern=pattern).values)
        lines.append(
            f"{kind} x {size:<4} T by layer {by_layer} of {found.attrs['recordings']}; AUM {float(aum[pattern]):.2f}"
        )
    lines.append(f"{'':16}" + "".join(f"{name:>15}" for name in DETECTORS))
    lines += [f"{name:16}" + "".join(f"{of[s].mean():>15.3f}" for s in DETECTORS) for name, of in areas.items()]
    return "\n".join(lines)
