"""Labelled results from what was recorded: tallies and pre-activations in, variables of a result file out.

What is here knows no run, no preset and no network, so that it serves a run of this package and a user's own training
alike. Figures take the datasets that these variables make.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm

from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import counting, partitions
from neuron_mech.recording.counting import NeuronCounts, Tally
from neuron_mech.store import about

PARTITIONS = ("own", "another neuron's", "dealt at random")
"""Whose categories separation is measured of: the neuron's own, and two controls."""


BY_NEURON = ("histogram", "constancy", "low_share", "flips", "independent_constancy")
"""What datasets hold of each neuron beside its index, as `neuron_NAME_SITE` beside `neuron_SITE`."""


class Recorded(NamedTuple):
    """What was recorded at a site."""

    tally: Tally
    neurons: Int[np.ndarray, " neurons"]
    """Indices of the tally's neurons within the site."""
    label: str
    """The site as figures write it."""


def in_files(site: str) -> str:
    """The name of a site in a dataset, where names may hold no slash: block.dense for block/dense."""
    return site.replace("/", ".")


def check_names(sites: Iterable[str]) -> None:
    """Raise InputError where what datasets hold of two sites would have one name, and the later replace the earlier.

    So do `a/b` and `a.b`, and a site called `constancy_a` and the constancy of `a`.
    """
    taken: dict[str, str] = {}
    for site in sites:
        named = in_files(site)
        for name in (named, *(f"{statistic}_{named}" for statistic in BY_NEURON)):
            if (other := taken.setdefault(name, site)) != site:
                raise InputError(
                    f"sites {other!r} and {site!r} would both be {name!r} in datasets: name only one of them, or give "
                    "the layer of one another name"
                )


def of_signs(recorded: Mapping[str, Recorded], recordings: int, shown: Mapping[str, int]) -> xr.Dataset:
    """Constancy, categories and flips by site and by neuron, and histograms of average signs (figures 1 and 5).

    `recordings` is how often each sample was recorded, `shown` the neuron of figure 1 by site.
    """
    by_neuron: dict[str, tuple] = {}
    rows: list[dict[str, float]] = []
    histograms = []
    for site, (tally, _, _) in recorded.items():
        of = jax.tree.map(np.asarray, jax.jit(counting.neuron_counts)(tally))
        independent = counting.independent_constancy(tally)
        counts = np.asarray(jax.jit(counting.histograms)(tally.positive, tally.negative))
        histograms.append(counts.sum(0))
        dims = f"neuron_{site}"
        by_neuron[f"neuron_histogram_{site}"] = (
            (dims, "average_sign"),
            counts,
            about("pairs", f"histogram of average signs of each neuron of {site}"),
        )
        by_neuron |= {f"neuron_{name}_{site}": variable for name, variable in of_neurons(site, of).items()}
        by_neuron[f"neuron_independent_constancy_{site}"] = (
            dims,
            independent,
            about("1", f"control: expected constancy of independent signs, each neuron of {site}"),
        )
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
        "low_share": about("1", "share of pairs in the low category (positive average sign)"),
        "flips_per_recording": about("1", "sign changes over consecutive pairs of nonzero recordings"),
        "random_neuron": about("index", "neuron of figure 1"),
        "recorded_samples": about("samples", "training samples whose derivatives are recorded at the site"),
        "positions": about("positions", "positions of the site's feature map, each counted by itself; 1 without a map"),
    }
    return xr.Dataset(
        by_neuron
        | {name: ("site", [row[name] for row in rows], said) for name, said in described.items()}
        | {
            "histogram": (
                ("site", "average_sign"),
                histograms,
                about("pairs", "histogram of average signs over all neurons"),
            ),
            "recordings": ((), recordings, about("recordings", "of each sample, over the run")),
        },
        {
            "site": list(recorded),
            "label": ("site", [at.label for at in recorded.values()]),
            "average_sign": (counting.BIN_EDGES[:-1] + counting.BIN_EDGES[1:]) / 2,
        }
        | {f"neuron_{site}": at.neurons for site, at in recorded.items()},
    )


def of_neurons(site: str, of: NeuronCounts) -> dict[str, tuple]:
    """{constancy, low_share, flips: variable of a result file}, over the dimension `neuron_SITE`."""
    with np.errstate(invalid="ignore"):
        found = {
            "constancy": (of.constant / of.ever, "share of |average sign| > 0.9"),
            "low_share": (of.low / of.ever, "share of pairs in the low category"),
            "flips": (of.flips / of.chances, "sign changes over consecutive pairs of nonzero recordings"),
        }
    return {
        name: (f"neuron_{site}", values, about("1", f"{description}, each neuron of {site}"))
        for name, (values, description) in found.items()
    }


# --- Categories and classes -------------------------------------------------------------------------------------------


def of_classes(
    site: str,
    at: Recorded,
    labels: Int[Array, " samples"],
    dealt: Int[Array, " samples"],
    classes: int,
) -> xr.Dataset:
    """Figure 8 for a site: each neuron's low share of each class, and what the class explains of its partition.

    `labels` are of the tally's rows; `dealt` are the control's, the same in another order. Over `neuron`, which
    `neuron_site` and `neuron_index` tell of; `xr.concat` brings sites together.
    """
    category = jax.jit(partitions.categories)(at.tally.positive, at.tally.negative)
    count = jax.jit(partitions.class_counts, static_argnames="classes")
    counts, permuted = (count(category, by, classes=classes) for by in (labels, dealt))
    explained = "share of the partition explained by the class: I(category; class) / H"
    dims = ("neuron", "label")
    return xr.Dataset(
        {
            "low_share": (
                dims,
                np.asarray(partitions.low_share(counts)),
                about("1", "share of the class's samples in the neuron's low category"),
            ),
            "permuted_low_share": (
                dims,
                np.asarray(partitions.low_share(permuted)),
                about("1", "control: the same with labels dealt at random among the samples"),
            ),
            "explained_by_class": (
                "neuron",
                np.asarray(partitions.explained_by_class(counts)),
                about("1", explained),
            ),
            "permuted_explained_by_class": (
                "neuron",
                np.asarray(partitions.explained_by_class(permuted)),
                about("1", f"control: {explained}, labels dealt at random"),
            ),
        },
        {
            "neuron_site": ("neuron", np.full(len(at.neurons), site, dtype=object)),
            "neuron_index": ("neuron", at.neurons),
            "label": np.arange(classes),
        },
    )


def with_sites(found: xr.Dataset, recorded: Mapping[str, Recorded]) -> xr.Dataset:
    """`of_classes` of all sites, brought together, with the share of classes wholly in or out of a category by site."""
    names = {"low_share": "wholly", "permuted_low_share": "permuted_wholly"}
    for name, wholly in names.items():
        shares = [found[name].values[found.neuron_site.values == site] for site in recorded]
        within = [np.nanmean(np.where(np.isnan(s), np.nan, (s <= 0.05) | (s >= 0.95))) for s in shares]
        found[wholly] = ("site", within, about("1", f"share of (neuron, class) with {name} at most 5 % from 0 or 1"))
    return found.assign_coords(
        site=list(recorded), site_label=("site", [at.label for at in recorded.values()])
    ).assign_attrs(samples=max(len(at.tally.positive) for at in recorded.values()))


# --- Pre-activations through training ---------------------------------------------------------------------------------


def of_separation(
    site: str,
    values: Float[np.ndarray, "recordings samples neurons"],
    category: Int[np.ndarray, "samples neurons"],
    rng: np.random.Generator,
) -> dict[str, tuple]:
    """How far the categories of all neurons of a site come apart, and the parts of what moves: variables by name.

    `rng` deals the categories of the second control.
    """
    whose = {
        "own": category,
        "another neuron's": np.roll(category, 1, axis=1),
        "dealt at random": rng.permuted(category, axis=0),
    }
    auc, overlap = np.full((2, len(PARTITIONS), len(values), category.shape[1]), np.nan, np.float32)
    for row in tqdm(range(len(values)), desc=f"separation at {site}", unit="recording", leave=False, disable=None):
        for index, name in enumerate(PARTITIONS):
            auc[index, row], overlap[index, row] = (
                part[0] for part in partitions.separation(values[row : row + 1], whose[name])
            )
    dims = ("partition", "wide_epoch", f"neuron_{site}")
    return {
        f"auc_{site}": (
            dims,
            auc,
            about("1", f"probability that a high sample's pre-activation exceeds a low one's (AUC), {site}"),
        ),
        f"overlap_{site}": (
            dims,
            overlap,
            about("1", f"overlapping coefficient of the two distributions, {site}"),
        ),
        f"change_{site}": (
            ("wide_epoch", "part", f"neuron_{site}"),
            partitions.change_parts(values, category).astype(np.float32),
            about("1", f"shares of the mean squared change since the first recording, {site}"),
        ),
        f"variance_{site}": (
            ("wide_epoch", "variance_part", f"neuron_{site}"),
            partitions.variance_parts(values, category).astype(np.float32),
            about("1", f"shares of the variance over samples, by what explains it, {site}"),
        ),
    }


def of_watched(
    site: str,
    values: Float[np.ndarray, "recordings samples neurons"],
    category: Int[np.ndarray, "samples neurons"],
    labels: Int[np.ndarray, " samples"],
) -> dict[str, tuple]:
    """Pre-activations, categories and the finally highest samples of watched neurons (figures 2, 6 and 7)."""
    highest: Bool[np.ndarray, "samples neurons"] = partitions.finally_highest(values[-1], category)
    dims = (f"close_sample_{site}", f"close_neuron_{site}")
    return {
        f"sample_label_{site}": (dims[0], labels, about("class", f"class of the samples watched closely at {site}")),
        f"pre_activation_{site}": (
            ("close_epoch", *dims),
            values,
            about("1", f"pre-activations of the closely watched neurons of {site}, dropout off"),
        ),
        f"category_{site}": (dims, category, about("1", "1 low, -1 high, 0 none, by the final average sign")),
        f"finally_highest_{site}": (
            dims,
            highest,
            about("1", "whether the sample is in the tenth of the high category that ends highest"),
        ),
        f"highest_rank_{site}": (
            ("close_epoch", f"close_neuron_{site}"),
            partitions.mean_rank(values, highest).astype(np.float32),
            about("percentile rank", "mean percentile rank, among all samples, of the finally highest"),
        ),
        f"watched_auc_{site}": (
            ("close_epoch", f"close_neuron_{site}"),
            partitions.separation(values, category).auc.astype(np.float32),
            about("1", "AUC of the closely watched neurons, on all their watched samples"),
        ),
    }


def with_ends(variables: Mapping[str, tuple], coords: Mapping[str, object], sites: list[str]) -> xr.Dataset:
    """learning_dynamics.nc of `of_separation` and `of_watched`, with each site's separation at the start and end."""
    ends = {
        "separation": (-1, "AUC at the end, mean over neurons"),
        "first_separation": (0, "AUC at the start, mean over neurons"),
    }
    found = {
        name: ("site", [np.nanmean(variables[f"auc_{site}"][1][0, at]) for site in sites], about("1", said))
        for name, (at, said) in ends.items()
    }
    kinds = {
        "partition": list(PARTITIONS),
        "part": list(partitions.PARTS),
        "variance_part": list(partitions.VARIANCE_PARTS),
    }
    return xr.Dataset({**variables, **found}, {**kinds, **coords})
