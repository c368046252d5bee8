"""Datasets of the result files, made from tallies.

Nothing here depends on a run, a preset or a network, so that runs of this package and a user's own training use the
same code. Figures take these datasets. Values of single neurons are along `neuron`, the neurons of all sites in turn
(`store.of_site`, `store.stacked`). `separation` makes datasets from pre-activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import constancies, counting, partitions, predictors
from neuron_mech.recording.counting import NeuronCounts, Tally
from neuron_mech.store import about, of_site, stacked, variable

LARGEST_AVERAGE_SIGNS = 2**25
"""Largest number of average signs that are stored; each takes a byte before compression."""
HUNDREDTH = np.float32(0.01)
"""Unit in which average signs are stored."""


class Recorded(NamedTuple):
    """The tally of a site."""

    tally: Tally
    neurons: Int[np.ndarray, " neurons"]
    """Indices of the tally's neurons within the site."""
    label: str
    """The site's name in figures."""


def of_signs(recorded: Mapping[str, Recorded], recordings: int, shown: Mapping[str, int]) -> xr.Dataset:
    """Constancy, categories and flips by site and by neuron, and histograms of average signs (figures 1 and 5).

    Arguments:
        recorded: by site, its tally, the indices of its neurons, and its label in figures. One site at least.
        recordings: number of recordings of each sample.
        shown: by site, the index of the neuron that figure 1 shows.

    Returns the dataset of gradient_signs.nc. Along `site`: `constancy`, `constancy_curve` (at three levels of |average
    sign|), `independent_constancy`, `low_share`, `flips_per_recording`, `histogram` (pairs in 20 bins of average signs)
    and the numbers of samples and positions. Along `neuron`, the neurons of all sites in turn: `neuron_constancy`,
    `neuron_independent_constancy`, `neuron_rarefied_constancy`, `neuron_low_share`, `neuron_flips` and
    `neuron_histogram`. Each variable has its unit and description. Where no derivative was ever nonzero, shares are
    NaN, but for a whole site's `low_share` and `flips_per_recording`, which are 0.

    >>> import numpy as np
    >>> from neuron_mech.recording import counting, summaries
    >>> up, down = np.array([[10, 4], [10, 0]]), np.array([[0, 6], [0, 10]])  # samples, neurons; 10 recordings
    >>> tally = counting.Tally(up, down, trail=np.array([[1, -9], [1, -1]]))
    >>> recorded = {"dense1": summaries.Recorded(tally, np.array([0, 7]), "dense1-relu")}
    >>> found = summaries.of_signs(recorded, recordings=10, shown={"dense1": 7})
    >>> found.constancy.sel(site="dense1").item()
    0.75
    >>> found.neuron_constancy.sel(neuron_site="dense1", neuron_index=7).item()
    0.5
    """
    parts: list[xr.Dataset] = []
    rows: list[dict[str, float]] = []
    curves: list[np.ndarray] = []
    for site, (tally, neurons, _) in recorded.items():
        of = jax.tree.map(np.asarray, jax.jit(counting.neuron_counts)(tally))
        independent = constancies.independent_constancy(tally)
        histograms = np.asarray(jax.jit(counting.histograms)(tally.positive, tally.negative))
        alike = (
            f"constancy of {constancies.DEPTH} nonzero recordings of each pair, drawn of its own, expected, each neuron"
        )
        by_chance = "control: expected constancy of independent signs, each neuron"
        variables = {
            "neuron_histogram": variable(
                "neuron bin", histograms, "histogram of average signs of each neuron", "pairs"
            ),
            "neuron_independent_constancy": variable("neuron", independent, by_chance),
            "neuron_rarefied_constancy": variable("neuron", constancies.rarefied_constancy(tally), alike),
        }
        curves.append(constancies.constancy_curve(tally.positive, tally.negative))
        parts.append(of_neurons(site, neurons, of).assign(variables))
        rows.append(
            {
                "constancy": counting.constancy(of.constant, of.ever),
                "independent_constancy": float(np.nanmean(independent)) if of.ever.any() else float("nan"),
                "low_share": of.low.sum() / max(of.ever.sum(), 1),
                "flips_per_recording": of.flips.sum(dtype=np.float64) / max(of.chances.sum(dtype=np.float64), 1),
                "random_neuron": shown[site],
                "recorded_samples": len(tally.positive),
                "positions": int(np.prod(tally.positive.shape[1:-1])),
            }
        )
    described = {
        "constancy": about("1", "share of (sample, position, neuron) with |average sign| > 0.9"),
        "independent_constancy": about(
            "1", "control: constancy if each neuron's recordings were independent, mean over neurons"
        ),
        "low_share": about(
            "1", "share of pairs in the low category (positive average sign), of all with a nonzero derivative"
        ),
        "flips_per_recording": about("1", "sign changes over consecutive pairs of nonzero recordings"),
        "random_neuron": about("index", "neuron of figure 1"),
        "recorded_samples": about("samples", "training samples whose derivatives are recorded at the site"),
        "positions": about("positions", "positions of the site's feature map, each counted by itself; 1 without a map"),
    }
    by_site = [part.neuron_histogram.values.sum(0) for part in parts]
    return (
        stacked(parts)
        .assign({name: ("site", [row[name] for row in rows], said) for name, said in described.items()})
        .assign(
            histogram=variable("site bin", by_site, "histogram of average signs over all neurons", "pairs"),
            constancy_curve=variable("site level", curves, "share of pairs with |average sign| at least the level"),
            recordings=variable("", recordings, "of each sample, over the run", "recordings"),
        )
        .assign_coords(
            site=list(recorded),
            label=("site", [at.label for at in recorded.values()]),
            level=np.array(constancies.LEVELS),
            bin=variable("bin", (counting.BIN_EDGES[:-1] + counting.BIN_EDGES[1:]) / 2, "average sign, its middle"),
        )
    )


def of_neurons(site: str, neurons: Int[np.ndarray, " neurons"], of: NeuronCounts) -> xr.Dataset:
    """Constancy, low share and flips of each neuron of a site."""
    with np.errstate(invalid="ignore"):
        found = {
            "constancy": (of.constant / of.ever, "share of |average sign| > 0.9, each neuron"),
            "low_share": (of.low / of.ever, "share of pairs in the low category, of all with a nonzero derivative"),
            "flips": (of.flips / of.chances, "sign changes over consecutive pairs of nonzero recordings, each neuron"),
        }
    return of_site(site, neurons, {f"neuron_{n}": variable("neuron", v, said) for n, (v, said) in found.items()})


def of_average_signs(
    recorded: Mapping[str, Recorded],
    ids: Int[np.ndarray, " samples"],
    labels: Int[np.ndarray, " samples"],
    rng: np.random.Generator,
    largest: int = LARGEST_AVERAGE_SIGNS,
) -> xr.Dataset:
    """The average sign of every (sample, neuron): which samples a neuron pushes down, and how constantly.

    Stored as hundredths in a byte, rounded away from zero: so the sign, which is the category, and |average sign| > 0.9
    are exact, and values too large by less than 0.01. At a site with positions the recordings of all of them are
    counted together, so that it is the mean over positions of the counts, not of one position. NaN, in the file -128,
    where no derivative was ever nonzero and where the site does not record the sample.

    Arguments:
        recorded: by site, its tally, the indices of its neurons, and its label.
        ids: of all recorded samples, one at least; a site's tally has the first of them.
        labels: their classes.
        rng: chooses the neurons that are kept where there are too many average signs.
        largest: number of average signs that are kept at most. Where there are more, equal shares of samples (the
            first) and of each site's neurons are kept; the attribute `holds` says how many.

    Returns the dataset of average_signs.nc: `average_sign`, float32 along `sample` (its id) and `neuron`, and `label`.

    >>> import numpy as np
    >>> from neuron_mech.recording import counting, summaries
    >>> up, down = np.array([[10, 4], [10, 0]]), np.array([[0, 6], [0, 10]])  # samples, neurons
    >>> tally = counting.Tally(up, down, trail=np.array([[1, -9], [1, -1]]))
    >>> recorded = {"dense1": summaries.Recorded(tally, np.array([0, 7]), "dense1-relu")}
    >>> ids, labels, rng = np.array([12, 40]), np.array([3, 1]), np.random.default_rng(0)
    >>> found = summaries.of_average_signs(recorded, ids, labels, rng)
    >>> at = found.average_sign.sel(neuron_site="dense1", neuron_index=7)
    >>> at.sel(sample=40).item(), at.sample[at < -0.9].values.tolist()
    (-1.0, [40])
    """
    neurons = sum(len(at.neurons) for at in recorded.values())
    share = min(1.0, (largest / (len(ids) * neurons)) ** 0.5)
    samples = max(1, int(share * len(ids)))
    parts = []
    for site, (tally, indices, _) in recorded.items():
        columns = np.sort(rng.permutation(len(indices))[: max(1, int(share * len(indices)))])
        positive, negative = (
            np.asarray(part)[:samples]
            .reshape(min(samples, len(part)), -1, len(indices))
            .sum(1, dtype=np.int64)[:, columns]
            for part in (tally.positive, tally.negative)
        )
        lead, seen = positive - negative, positive + negative
        average = np.full((samples, len(columns)), np.nan, np.float32)
        with np.errstate(invalid="ignore"):
            hundredths = np.where(seen, np.sign(lead) * np.ceil(100 * np.abs(lead) / seen), np.nan)
        average[: len(lead)] = hundredths.astype(np.float32) * HUNDREDTH  # as they come back from the file
        parts.append(of_site(site, indices[columns], {"average_sign": (("sample", "neuron"), average)}))
    found = stacked(parts).assign_coords(
        sample=variable("sample", ids[:samples], "in the training set", "id"),
        label=variable("sample", np.asarray(labels)[:samples], "label of the sample", "class"),
    )
    said = (
        "share of a sample's nonzero derivatives at a neuron that are positive less that of negative ones, over all "
        "recordings and positions together; hundredths, rounded away from zero; NaN where none was ever nonzero, or "
        "the site does not record the sample. Positive: low, the loss falls when the activation does"
    )
    found["average_sign"].attrs = about("1", said)
    found["average_sign"].encoding = {"dtype": "int8", "scale_factor": HUNDREDTH, "_FillValue": -128, "zlib": True}
    kept = f"{samples:,} of {len(ids):,} recorded samples and {found.sizes['neuron']:,} of {neurons:,} recorded neurons"
    return found.assign_attrs(holds=kept if share < 1 else f"all: {kept}")


# --- Categories and classes -------------------------------------------------------------------------------------------


def of_classes(
    site: str,
    at: Recorded,
    labels: Int[Array, " samples"],
    dealt: Int[Array, " samples"],
    classes: int,
) -> xr.Dataset:
    """Figure 8 for a site: each neuron's low share of each class, and the share of its partition that classes explain.

    Arguments:
        site: its name.
        at: its tally, the indices of its neurons, and its label.
        labels: the classes of the tally's rows, integers from 0 to classes - 1.
        dealt: the same in a random order, as a control.
        classes: how many there are.

    Returns a dataset with `low_share` (neuron, label), NaN for a class without pairs; `explained_by_class` (neuron),
    NaN for a neuron with one category only (see `predictors`); and both from the labels `dealt`, named `permuted_...`.
    `with_sites` joins those of several sites to class_consistency.nc.

    >>> import jax.numpy as jnp, numpy as np
    >>> from neuron_mech.recording import counting, summaries
    >>> up = np.array([[10], [9], [0], [1]])  # one neuron; of ten signs of four samples, those that are positive
    >>> tally = counting.Tally(up, 10 - up, trail=np.array([[1], [2], [-1], [-2]]))
    >>> at = summaries.Recorded(tally, np.array([7]), "dense1-relu")
    >>> labels, dealt = jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1])
    >>> found = summaries.of_classes("dense1", at, labels, dealt, classes=2)
    >>> found.low_share.values.tolist(), found.permuted_low_share.values.tolist()
    ([[1.0, 0.0]], [[0.5, 0.5]])
    """
    category = jax.jit(partitions.categories)(at.tally.positive, at.tally.negative)
    count = jax.jit(predictors.class_counts, static_argnames="classes")
    counts, permuted = (count(category, by, classes=classes) for by in (labels, dealt))
    low, explained = (
        [np.asarray(measure(of)) for of in (counts, permuted)]
        for measure in (jax.jit(predictors.low_share), predictors.explained_by_class)
    )
    dims, said = "neuron label", "share of the partition explained by the class: I(category; class) / H"
    control = "control: the same with labels dealt at random among the samples"
    found = {
        "low_share": variable(
            dims, low[0], "share of the class in the neuron's low category, of its samples in either"
        ),
        "permuted_low_share": variable(dims, low[1], control),
        "explained_by_class": variable("neuron", explained[0], said),
        "permuted_explained_by_class": variable("neuron", explained[1], f"control: {said}, labels dealt at random"),
    }
    return of_site(site, at.neurons, found).assign_coords(label=np.arange(classes))


def with_sites(parts: Sequence[xr.Dataset], recorded: Mapping[str, Recorded]) -> xr.Dataset:
    """`of_classes` of all sites joined, with the share of classes wholly in or out of a category by site."""
    found = stacked(parts)
    names = {"low_share": "wholly", "permuted_low_share": "permuted_wholly"}
    for name, wholly in names.items():
        shares = [part[name].values for part in parts]
        within = [np.nanmean(np.where(np.isnan(s), np.nan, (s <= 0.05) | (s >= 0.95))) for s in shares]
        found[wholly] = variable("site", within, f"share of (neuron, class) with {name} at most 5 % from 0 or 1")
    return found.assign_coords(
        site=list(recorded), site_label=("site", [at.label for at in recorded.values()])
    ).assign_attrs(samples=max(len(at.tally.positive) for at in recorded.values()))
