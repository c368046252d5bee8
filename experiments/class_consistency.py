"""What decides a neuron's two categories? (Section 4.2; figure 8, and beyond.)

How much of each neuron's partition the class alone explains, and how well the final category is predicted before the
first step: by the sign of the sample's own first derivative, and by the weights from the neuron to the right class's
logit. Writes class_consistency.nc and figures/: figure8, predictions, and an atlas of each watched neuron's categories
(atlas_SITE_NEURON). Controls: labels dealt at random among the samples, and the neuron's larger category.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import gradient_signs
from experiments.command_line import main_of_runs
from experiments.command_line.progress import doing
from neuron_mech import runs, store, training
from neuron_mech.config import random_stream
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper import figures
from neuron_mech.recording import partitions, predictors, summaries
from neuron_mech.recording.counting import Tally
from neuron_mech.recording.summaries import Recorded
from neuron_mech.runs import Run, predictions
from neuron_mech.store import variable

PREDICTORS = (
    "the neuron's larger category",
    "majority of the class, labels dealt at random",
    "weights to the right logit, untrained",
    "class sign, untrained",
    "class sign, trained",
    "first recording",
    "majority of the class",
)
"""Predictors of a pair's category; the first two are controls.

The class sign of a neuron and a class is sign(mean of its weights to the wrong logits - its weight to the right one):
the sign of the loss's derivative for a network that finds all wrong classes equally likely.
"""

WEIGHT_SAMPLES = 1000
"""Training samples over which the untrained network's paths to the logits are averaged."""

SHEETS = ("most constantly low", "most constantly high", "flipping most")
PLACES = 49
"""Images on each sheet of the atlas."""


def dataset(run: Run) -> xr.Dataset:
    """class_consistency.nc: `low_share(neuron, label)`, neurons of all sites in turn (`neuron_site`, `neuron_index`).

    Raises InputError for a run that recorded nothing.
    """
    study, config, kept = run.study, run.study.config, gradient_signs.recorded(run)
    recorded = run.dataset.train.rows(study.recorded)
    untrained = training.init(config, study.model, recorded.rows(np.arange(1)))
    first = predictions.first_categories(study, untrained)
    some = run.dataset.train.rows(runs.random_ids(config, study.samples, min(WEIGHT_SAMPLES, study.samples)))
    weights, trained = (
        predictions.weights_to_logits(
            study.model, variables, study.sites, some, run.dataset.classes, config.record.derivative
        )
        for variables in (untrained.variables, run.state.train.variables)
    )
    sites: list[xr.Dataset] = []
    pages: list[xr.Dataset] = []
    for site, at in tqdm(kept.items(), desc="classes", unit="site", disable=None):
        labels = recorded.labels[: study.design.rows[site]]
        sites.append(_of_site(run, site, at, labels, first[site], weights[site], trained[site]))
        indices = sites[-1].neuron_index.values
        close = run.trajectories["close"].neurons if run.trajectories.watching else {}
        for column in np.searchsorted(indices, close.get(site, ())):
            of_neuron = jax.tree.map(np.asarray, at.tally.part(np.s_[..., column]))
            pages.append(_atlas_page(run, site, int(indices[column]), of_neuron, labels))
    found = summaries.with_sites(sites, kept)
    if pages:
        found = found.merge(store.stacked(pages, "atlas_neuron"))
    return found.assign_attrs(preset=config.preset)


def _of_site(
    run: Run, site: str, at: Recorded, labels: jax.Array, first: jax.Array, weights: jax.Array, trained: jax.Array
) -> xr.Dataset:
    """Class consistency of a site's neurons, and the share of categories that each predictor gets right.

    `first` are the categories by the first recording alone; `weights` and `trained` are the weights from each neuron to
    each logit, before and after training.
    """
    classes = run.dataset.classes
    dealt = jax.random.permutation(random_stream(run.study.config.train.seed, "dealt labels"), labels)
    category = jax.jit(partitions.categories)(at.tally.positive, at.tally.negative)
    count = jax.jit(predictors.class_counts, static_argnames="classes")
    counts, permuted = (count(category, by, classes=classes) for by in (labels, dealt))
    agreement = jax.jit(predictors.agreement)
    predicted = {
        "the neuron's larger category": predictors.majority(counts),
        "majority of the class, labels dealt at random": predictors.majority_by_class(permuted),
        # A weight that raises the right logit lowers the loss: the activation should rise.
        "weights to the right logit, untrained": agreement(-weights[labels][..., at.neurons], category),
        "class sign, untrained": agreement(predictors.class_signs(weights)[labels][..., at.neurons], category),
        "class sign, trained": agreement(predictors.class_signs(trained)[labels][..., at.neurons], category),
        "first recording": agreement(first, category),
        "majority of the class": predictors.majority_by_class(counts),
    }
    low = (first > 0).reshape(-1, len(at.neurons)).mean(0)
    low_by_class = np.asarray(predictors.low_share(count(first, labels, classes=classes)))
    right, alone = np.stack([predicted[name] for name in PREDICTORS]), "by the first recording alone"
    return summaries.of_classes(site, at, labels, dealt, classes).assign(
        first_low_share=variable("neuron", low, f"control: share of pairs that are low {alone}"),
        first_low_share_by_class=variable("neuron label", low_by_class, f"control: low_share {alone}"),
        agreement=variable("predictor neuron", right, "share of pairs whose final category is predicted right"),
        predictor=list(PREDICTORS),
    )


def _atlas_page(run: Run, site: str, neuron: int, tally: Tally, labels: jax.Array) -> xr.Dataset:
    """The atlas of one neuron, from its column of the tally, whose counts have shape (samples, positions ...)."""
    config, ids = run.study.config, run.study.recorded[: run.study.design.rows[site]]
    pairs = [np.asarray(part, np.int64).reshape(len(ids), -1) for part in (tally.positive, tally.negative, tally.flips)]
    positive, negative, flips = (part.sum(1) for part in pairs)
    rng = np.random.default_rng([config.train.seed, neuron])
    rows = partitions.atlas(positive, negative, flips, PLACES, rng)
    member = np.arange(run.dataset.classes)[:, None] == np.asarray(labels)
    low, high = pairs[0] > pairs[1], pairs[0] < pairs[1]
    lead, recorded = np.abs(pairs[0] - pairs[1]), pairs[0] + pairs[1]
    with np.errstate(invalid="ignore"):
        turned = (member @ flips) / (member @ np.maximum(recorded - 1, 0).sum(1))
        constant = np.divide((10 * lead > 9 * recorded).sum(), (recorded > 0).sum())
    shown, counts = np.where(rows >= 0, ids[rows], -1), np.stack([member @ low.sum(1), member @ high.sum(1)])
    said = "training samples on each sheet; -1 where none is left"
    page = xr.Dataset(
        {
            "atlas_sample": variable("sheet place", shown, said, "id"),
            "atlas_class_counts": variable("category label", counts, "by category and class", "pairs"),
            "atlas_class_flips": variable("label", turned, "sign flips per recording, by class"),
            "atlas_constancy": variable("", constant, "share of |average sign| > 0.9"),
            "atlas_positions": variable("", pairs[0].shape[1], "positions of the site: pairs of each sample"),
            "atlas_label": variable("", run.study.label(site), "site and activation function", ""),
        },
        {"sheet": list(SHEETS), "category": ["low", "high"], "label": np.arange(run.dataset.classes)},
    )
    return store.of_site(site, [neuron], {}, "atlas_neuron").merge(page.expand_dims("atlas_neuron"))


def summary(found: xr.Dataset) -> str:
    """Figure 8 in numbers, and what predicts the categories."""
    samples = found.attrs["samples"]
    lines = [f"{found.attrs['preset']}: categories of {samples:,} samples (in brackets: labels dealt at random)"]
    for site in found.site.values:
        at = found.sel(neuron_site=site, site=site)
        lines.append(
            f"{at.site_label.item()}: {at.wholly.item():.1%} ({at.permuted_wholly.item():.1%}) of classes wholly in or "
            f"out of a category; the class explains {float(at.explained_by_class.mean()):.1%} "
            f"({abs(float(at.permuted_explained_by_class.mean())):.1%}) of a partition"
        )
        lines += [
            f"  {float(at.agreement.sel(predictor=kind).mean()):6.1%} predicted right by {kind}" for kind in PREDICTORS
        ]
    return "\n".join(lines)


@store.step("class_consistency")
def report(run: Run) -> None:
    """Draw a finished run, print its summary, and write class_consistency.nc last, so that it says that all is done."""
    doing("asking what decides the categories")
    found, directory = dataset(run), run.directory
    doing("drawing figure 8 and the atlas")
    figures.write_figure(directory, "figure8", figures.class_consistency(found))
    figures.write_figure(directory, "predictions", figures.predictions(found))
    for page in range(found.sizes.get("atlas_neuron", 0)):
        at = found.isel(atlas_neuron=page)
        ids = np.maximum(at.atlas_sample.values, 0)
        images = np.asarray(run.dataset.train.images[jnp.asarray(ids.ravel())])
        figure = figures.atlas(found, page, images.reshape(*ids.shape, *images.shape[1:]))
        figures.write_figure(directory, f"atlas_{at.atlas_neuron_site.item()}_{int(at.atlas_neuron_index)}", figure)
    store.write_dataset(directory / "class_consistency.nc", found)
    print(summary(found))
    print(f"results: {directory / 'class_consistency.nc'}; figures: {directory / 'figures'}")


if __name__ == "__main__":
    main_of_runs("class_consistency", __doc__ or "", report, summary)
