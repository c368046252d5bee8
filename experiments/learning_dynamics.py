"""How do a neuron's two categories come apart while it learns? (Section 4.2; figures 2, 6 and 7, and the videos.)

Samples are put in the low or high category by their final average sign, and the categories' pre-activations are
followed from the first recording to the last. Writes learning_dynamics.nc, videos/, and figures/: figure2 (a neuron of
each site), figure6_SITE (all watched neurons; figure7_SITE for a convolutional network), separation (all neurons: how
far the categories come apart, and what else a distribution does meanwhile) and neurons_SITE (every neuron's partition
size, constancy, flips and separation). Controls: the categories of another neuron, and categories dealt at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from experiments.command_line import Seeded, Session, check_recording, main
from experiments.command_line.progress import doing
from neuron_mech import store, taps
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper import figures
from neuron_mech.recording import counting, partitions, predictors, separation, summaries
from neuron_mech.runs import Run, trajectories
from neuron_mech.store import about, variable


@dataclass(frozen=True)
class DynamicsOptions(Seeded):
    """Options of this experiment."""

    videos: bool = True
    """Whether to draw the videos too, one a site: about ten seconds each."""


def dataset(run: Run) -> xr.Dataset:
    """learning_dynamics.nc. Raises InputError for a run that kept no trajectories.

    Dimensions `close_epoch` and `wide_epoch` are the two watches' recordings, in epochs; `close_sample` holds ids.
    """
    study, kept = run.study, run.trajectories
    if not kept.watching:
        raise InputError(
            f"record.mode is {study.config.record.mode} and watch.recordings {study.config.watch.recordings}: this run "
            "kept no trajectories; name another --run-dir and set both"
        )
    close, wide = kept["close"], kept["wide"]
    epochs = study.config.train.epochs
    coords: dict[str, object] = {
        "site": list(study.sites),
        "label": ("site", [study.label(site) for site in study.sites]),
        "close_epoch": _epochs(run, close),
        "wide_epoch": _epochs(run, wide),
    }
    of_wide, of_close = [], []
    watched = max((len(close.positions[site]) for site in close.neurons), default=0)
    tallies = run.tallies[study.config.record.objective]
    for site, tally in tallies.items():
        category = np.asarray(jax.jit(partitions.categories)(tally.positive, tally.negative))
        apart = separation.of_separation(
            site,
            wide.neurons[site],
            run.trajectories.values("wide", site),
            trajectories.seen(study, wide, site, category),
            np.random.default_rng(study.config.train.seed),
        )
        of = jax.tree.map(np.asarray, jax.jit(counting.neuron_counts)(tally))
        of_wide.append(
            apart.assign(summaries.of_neurons(site, wide.neurons[site], of)).assign(_ends(run, site, category))
        )
        if site in close.neurons:
            values, own = run.trajectories.values("close", site), trajectories.seen(study, close, site, category)
            of_close.append(separation.of_watched(site, close.neurons[site], values, own, watched))
    coords["close_sample"] = study.recorded[:watched]
    labels = np.asarray(run.dataset.train.labels)[study.recorded[:watched]]
    said = about("1", "accuracy on the samples watched closely, dropout off")
    return (
        separation.of_dynamics(of_wide, of_close, coords, labels)
        .assign(accuracy=("close_epoch", kept.watched["accuracy"]["close"], said))
        .assign_attrs(preset=study.config.preset, steps=study.batches * epochs, epochs=epochs)
    )


def _ends(run: Run, site: str, category: np.ndarray) -> dict[str, tuple]:
    """Further measures of all neurons of a site at the end of training: separation by other categories, and ranks."""
    study, wide = run.study, run.trajectories["wide"]
    values = run.trajectories.values("wide", site)
    final, own = values[-1:], trajectories.seen(study, wide, site, category)
    early = trajectories.seen(study, wide, site, run.state.at_half[site])
    labels = np.asarray(run.dataset.train.labels)[study.recorded[: len(own)]]
    highest = partitions.finally_highest(values[-1], own)
    start, end = partitions.mean_rank(values[[0, -1]], highest)
    by_class = predictors.of_most_of_the_class(own, labels)
    half, of_class = (partitions.separation(final, other).auc[0] for other in (early, by_class))
    together = "AUC at the end of the mean over positions, categories by the recordings of all positions together; "
    auc = {
        "half": (half, "AUC at the end of the categories by the first half of the epochs' recordings"),
        "class": (of_class, "control: AUC at the end where each class is in the category that most of it is in"),
        "position_mean": (
            _position_means(run, site, category, len(own)),
            f"{together}NaN where the site has no positions",
        ),
    }
    found = {f"{name}_auc": variable("neuron", of.astype(np.float32), said) for name, (of, said) in auc.items()}
    for name, ranks in (("start", start), ("end", end)):
        said = f"mean rank at the {name} of the finally highest tenth of the high category"
        found[f"highest_rank_{name}"] = variable("neuron", ranks.astype(np.float32), said, "percentile rank")
    return found


def _position_means(run: Run, site: str, category: np.ndarray, samples: int) -> np.ndarray:
    """AUC of the position mean of the wide watch's samples in the finished network."""
    study = run.study
    neurons = study.design.indices(site)
    if category.ndim == 2:
        return np.full(len(neurons), np.nan)
    tally = run.tallies[study.config.record.objective][site]
    lead = np.asarray(tally.positive, np.int64) - np.asarray(tally.negative, np.int64)
    together = np.sign(lead[:samples].reshape(samples, -1, lead.shape[-1]).sum(1)).astype(np.int8)
    ids = study.recorded[:samples]
    chunk = study.config.record.chunk

    @jax.jit
    def means(images: jax.Array) -> jax.Array:
        values = taps.read(study.model, run.state.train.variables, images, (site,))[1][site]
        return values.reshape(len(values), -1, values.shape[-1]).mean(1)[:, neurons]

    parts = [run.dataset.train.rows(ids[k : k + chunk]) for k in range(0, samples, chunk)]
    values = np.concatenate([np.asarray(means(part.inputs)) for part in parts])
    return partitions.separation(values[None], together).auc[0]


def _epochs(run: Run, watch: trajectories.Watch) -> np.ndarray:
    """The watch's recordings as epochs trained before each."""
    per_epoch = run.study.segments_per_epoch
    epoch, segment = np.divmod(watch.segments, per_epoch)
    return epoch + segment * run.study.config.record.every / run.study.batches


def summary(found: xr.Dataset) -> str:
    """The separation of the categories and of its controls, and the parts of the change, as a table."""
    lines = [
        f"{found.attrs['preset']}: separation of low and high (AUC, mean over neurons; 0.5 none, 1 complete)",
        f"{'site':18} {'start':>7} {'end':>7} {'another':>9} {'random':>8} {'overlap':>9} {'random':>8}",
    ]
    parts = []
    for site in found.site.values:
        at = found.sel(site=site, neuron_site=site)
        end, covered = (part.isel(wide_epoch=-1).mean("neuron_index").values for part in (at.auc, at.overlap))
        label = at.label.item()
        lines.append(
            f"{label:18} {at.first_separation.item():7.3f} {end[0]:7.3f} {end[1]:9.3f} {end[2]:8.3f} "
            f"{covered[0]:9.3f} {covered[2]:8.3f}"
        )
        for what, of in (("change", at.change), ("final variance", at.variance)):
            shares = of.isel(wide_epoch=-1).mean("neuron_index")
            named = zip(shares[shares.dims[0]].values, shares.values, strict=True)
            parts.append(f"{label}, {what}: " + ", ".join(f"{share:.1%} {part}" for part, share in named))
    lines += parts
    return "\n".join(lines)


def experiment(session: Session[DynamicsOptions]) -> None:
    """Train and record, write the results, draw, and print the summary."""
    session.each("learning_dynamics", partial(report, with_videos=session.options.videos), summary)


@store.step("learning_dynamics")
def report(run: Run, with_videos: bool = True) -> None:
    """Draw a finished run, print its summary, and write learning_dynamics.nc last, so that it says that all is done."""
    from neuron_mech.paper import videos

    doing("measuring how far low and high come apart")
    found, directory = dataset(run), run.directory
    doing("drawing figures 2, 6 and 7")
    number = "figure7" if any(len(at.shape) > 1 for at in run.study.sites.values()) else "figure6"
    neurons = run.trajectories["close"].neurons
    watched = [site for site in run.study.sites if site in neurons]
    if watched:
        figures.write_figure(directory, "figure2", figures.dynamics(found, [(site, 0) for site in watched]))
    for site in watched:
        rows = [(site, index) for index in range(len(neurons[site]))]
        figures.write_figure(directory, f"{number}_{site}", figures.dynamics(found, rows))
    figures.write_figure(directory, "separation", figures.separation(found))
    for site in run.study.sites:
        figures.write_figure(directory, f"neurons_{site}", figures.all_neurons(found, site))
    print(summary(found))
    if with_videos:
        for site in watched:
            label = found.label.sel(site=site).item()
            for line in videos.write(directory / "videos" / label, *videos.dynamics(found, site)):
                print(line)
    store.write_dataset(directory / "learning_dynamics.nc", found)
    print(f"results: {directory / 'learning_dynamics.nc'}; figures: {directory / 'figures'}")


def check(options: DynamicsOptions) -> None:
    """Refuse a run that keeps no trajectories before anything is trained."""
    check_recording(options)
    if not options.watch.recordings:
        raise InputError("watch.recordings is 0, but this experiment is about the trajectories kept: give at least 2")


if __name__ == "__main__":
    main("learning_dynamics", __doc__ or "", experiment, DynamicsOptions, check)
