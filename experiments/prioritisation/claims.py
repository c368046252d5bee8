"""Claims 13 and 14, of prioritisation.nc."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from experiments.open_questions.judging import FROM, Measured, judged
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims import Claim

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
    return _area(features.tobytes(), features.shape[1], tuple(wrong))


@lru_cache(100)  # the figure asks for what the claim asks for, and the claim for AUM alone twice
def _area(stored: bytes, columns: int, labels: tuple[int, ...]) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, wrong = np.frombuffer(stored).reshape(-1, columns), np.array(labels)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    fitted = make_pipeline(StandardScaler(), LogisticRegression())
    predicted = cross_val_predict(fitted, features, wrong, cv=folds, method="decision_function")
    return float(roc_auc_score(wrong, predicted))


def judge(found: xr.Dataset) -> list[Claim]:
    """13: common patterns first, AUM or not. 14: separation adds to AUM as a detector of wrong labels."""
    network, file = f"{found.attrs['depth']} layers", "prioritisation.nc"
    first: list[Measured] = []
    for site in map(str, found.site.values):
        for with_aum in (False, True):
            of = slopes(found, site, with_aum)
            null = np.mean([slopes(found, site, with_aum, deal) for deal in range(DEALS)], 0)
            said = f"change of T as a pattern doubles{', AUM held fixed' if with_aum else ''}"
            first.append(Measured(said, site, of, "<", 0, null, "recordings"))
    second = [
        Measured("gain in out-of-fold AUC", name, gain(found, name), ">", 0.005, gain(found, name, dealt=True))
        for name in noisy(found)
    ]
    common = Claim(
        f"13, {network}",
        FROM,
        "Neurons sort common patterns first, beyond what the margin says",
        "any fall of T with a pattern's size, in every layer, and with AUM as a covariate",
        "patterns dealt to other samples",
        file,
    )
    wrong = Claim(
        f"14, {network}",
        FROM,
        "Separation adds to AUM as a detector of wrong labels",
        "half a point of area under the ROC curve, for every kind of wrong labels",
        "separation dealt to other samples",
        file,
    )
    return [judged(common, first), judged(wrong, second)]


def noisy(found: xr.Dataset) -> list[str]:
    """The training sets with wrong labels."""
    return [str(name) for name in found.training_set.values if found.sel(training_set=name).wrong.values.any()]
