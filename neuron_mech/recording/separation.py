"""Datasets of learning_dynamics.nc, made from pre-activations kept during training and the final categories.

Runs of this package and a user's own training use the same code. `summaries` makes datasets from tallies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int
from tqdm import tqdm

from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import partitions
from neuron_mech.recording.partitions import Category, Values
from neuron_mech.store import about, of_site, stacked, variable

PARTITIONS = ("own", "another neuron's", "dealt at random")
"""The categories whose separation is measured: the neuron's own, and two controls."""


VALUE_BINS = 24
"""Bins of a neuron's values at each moment."""


def of_values(values: Values, category: Category) -> dict[str, tuple]:
    """Histograms of every neuron's values at each recording kept, of low and of high samples.

    VALUE_BINS equal bins from the 0.1th to the 99.9th percentile of the neuron's values over all recordings; values
    beyond are counted in the outermost bins, and values that are all the same in the first. A neuron with a value that
    is infinite or no number has counts of 0 and a range of NaN.
    """
    finite = np.isfinite(values).all((0, 1))
    values = np.where(finite, values, 0)
    lowest = np.quantile(values, 0.001, axis=1).min(0)
    highest = np.maximum(np.quantile(values, 0.999, axis=1).max(0), lowest + 1e-9)
    width = np.where(highest > lowest, highest - lowest, 1)
    place = np.clip(VALUE_BINS * (values - lowest) / width, 0, VALUE_BINS - 1).astype(np.int16)
    counts = np.zeros((len(values), 2, VALUE_BINS, values.shape[2]), np.int32)
    for index, sign in enumerate((1, -1)):
        member = (category == sign) & finite
        for k in range(VALUE_BINS):
            counts[:, index, k] = ((place == k) & member).sum(1)
    dims, ends = "wide_epoch value_category value_bin neuron", np.where(finite, np.stack([lowest, highest]), np.nan)
    said = "histogram of pre-activations, of the samples that end low and of those that end high"
    edges = "lower edge of the first and upper edge of the last bin of value_histogram, which hold all beyond"
    return {
        "value_histogram": variable(dims, counts, said, "samples"),
        "value_range": variable("value_end neuron", ends.astype(np.float32), edges),
    }


def of_separation(
    site: str, neurons: Int[np.ndarray, " neurons"], values: Values, category: Category, rng: np.random.Generator
) -> xr.Dataset:
    """How far the categories of all neurons of a site come apart, and the parts of the change of their values.

    Arguments:
        site: its name.
        neurons: indices of the neurons within the site.
        values: pre-activations of shape (recordings, samples, neurons), finite.
        category: +1 low, -1 high, 0 for samples that are left out; of shape (samples, neurons).
        rng: permutes each neuron's categories among the samples for the second control.

    Returns a dataset along `neuron` and `wide_epoch`, the recordings: `auc` and `overlap` of `partitions.separation`,
    by `partition` (the own categories and two controls, in the order of PARTITIONS; another neuron's are those of the
    one before, so that a single neuron has its own again); the shares `change` and `variance` of `change_parts` and
    `variance_parts`; and histograms of the values, of low and of high samples (`of_values`). Floats are float32.

    >>> import numpy as np
    >>> from neuron_mech.recording import separation
    >>> start, end = [0.0, 3.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]  # one neuron, four samples, the first two of them low
    >>> values, category = np.array([start, end])[..., None], np.array([1, 1, -1, -1])[:, None]
    >>> rng = np.random.default_rng(0)
    >>> found = separation.of_separation("dense1", np.array([7]), values, category, rng)
    >>> own = separation.PARTITIONS.index("own")
    >>> found.auc[own, :, 0].values.tolist()
    [0.5, 1.0]
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
    parts = (partitions.change_parts, partitions.variance_parts)
    change, variance = (shares(values, category).astype(np.float32) for shares in parts)
    change_said = "shares of the mean squared change since the first recording"
    variance_said = "shares of the variance over samples, by what explains it"
    dims = ("partition", "wide_epoch", "neuron")
    found = {
        "auc": variable(dims, auc, "probability that a high sample's pre-activation exceeds a low one's (AUC)"),
        "overlap": variable(dims, overlap, "overlapping coefficient of the two distributions"),
        "change": variable("wide_epoch part neuron", change, change_said),
        "variance": variable("wide_epoch variance_part neuron", variance, variance_said),
    }
    return of_site(site, neurons, found | of_values(values, category))


def of_watched(
    site: str, neurons: Int[np.ndarray, " neurons"], values: Values, category: Category, samples: int
) -> xr.Dataset:
    """Pre-activations, categories and the finally highest samples of watched neurons (figures 2, 6 and 7).

    Arguments:
        site: its name.
        neurons: indices of the watched neurons within the site.
        values: pre-activations of shape (recordings, samples of the site, neurons).
        category: +1 low, -1 high, 0 none, of shape (samples of the site, neurons).
        samples: number of samples that are watched in all, no fewer than the site has. It has the first of them: of the
            others pre-activations are NaN, and categories 0.

    Returns a dataset along `close_epoch` (the recordings), `close_sample` and `close_neuron`: `pre_activation`,
    `category`, `finally_highest` (whether a sample is in the tenth of high that ends highest), `highest_rank` (their
    mean percentile rank, 0 to 100) and `watched_auc`, both by recording and neuron, NaN without a high sample.

    >>> import numpy as np
    >>> from neuron_mech.recording import separation
    >>> start, end = [0.0, 3.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]  # one neuron, four samples, the first two of them low
    >>> values, category = np.array([start, end])[..., None], np.array([1, 1, -1, -1])[:, None]
    >>> found = separation.of_watched("dense1", np.array([7]), values, category, samples=6)
    >>> found.pre_activation.dims, found.pre_activation.shape
    (('close_epoch', 'close_sample', 'close_neuron'), (2, 6, 1))
    >>> found.highest_rank[:, 0].values.tolist()  # of the last sample: third at the start, highest at the end
    [62.5, 87.5]
    """
    highest: Bool[np.ndarray, "samples neurons"] = partitions.finally_highest(values[-1], category)
    rank = partitions.mean_rank(values, highest).astype(np.float32)
    auc = partitions.separation(values, category).auc.astype(np.float32)
    beyond = ((0, samples - len(category)), (0, 0))
    every = np.pad(values, ((0, 0), *beyond), constant_values=np.nan)
    whose = "pre-activations of the closely watched neurons, dropout off; NaN where not recorded"
    which = "whether the sample is in the tenth of the high category that ends highest"
    ranked = "mean percentile rank, among all samples, of the finally highest"
    pairs, moments = "close_sample close_neuron", "close_epoch close_neuron"
    found = {
        "pre_activation": variable(f"close_epoch {pairs}", every, whose),
        "category": variable(pairs, np.pad(category, beyond), "1 low, -1 high, 0 none, by the final average sign"),
        "finally_highest": variable(pairs, np.pad(highest, beyond), which),
        "highest_rank": variable(moments, rank, ranked, "percentile rank"),
        "watched_auc": variable(moments, auc, "AUC of the closely watched neurons, on all their watched samples"),
    }
    return of_site(site, neurons, found, "close_neuron")


def of_dynamics(
    wide: Sequence[xr.Dataset], close: Sequence[xr.Dataset], coords: Mapping[str, object], labels: np.ndarray
) -> xr.Dataset:
    """learning_dynamics.nc of `of_separation` and `of_watched`, with each site's separation at the start and end.

    `coords` hold sites and epochs, and `close_sample`, the ids of the closely watched samples, whose classes are
    `labels`; they are left out where no neuron is watched closely.
    """
    ends = {
        "separation": (-1, "AUC at the end, mean over neurons"),
        "first_separation": (0, "AUC at the start, mean over neurons"),
    }
    whole = stacked(wide)
    whole["value_histogram"].encoding = {"zlib": True}  # mostly small numbers and zeros
    found = whole.assign(
        {
            name: variable("site", [np.nanmean(part.auc.values[0, at]) for part in wide], said)
            for name, (at, said) in ends.items()
        }
    )
    kinds = {
        "partition": list(PARTITIONS),
        "part": list(partitions.PARTS),
        "variance_part": list(partitions.VARIANCE_PARTS),
        "value_category": ["low", "high"],
        "value_end": ["lowest", "highest"],
    }
    if close:
        said = about("class", "class of the samples watched closely")
        found = found.merge(stacked(close, "close_neuron")).assign(sample_label=("close_sample", labels, said))
    else:
        coords = {name: of for name, of in coords.items() if name != "close_sample"}
    return found.assign_coords({**kinds, **coords})
