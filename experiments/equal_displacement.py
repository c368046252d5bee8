"""Would signs be as constant had the weights moved as far in another direction? (A null for section 4.1.)

The paper's constancy could be what any small displacement of the weights gives: signs follow from weights, and weights
that hardly move hardly change signs. So the same recordings are made on W(0) + P[W(t) - W(0)], where P is one fixed
random permutation of each layer's entries: every layer has moved exactly as far, by exactly the same numbers, at every
moment, and nothing of what was learnt is left. Biases are kept as they were at t; a second null permutes them too. The
parameters are those kept while the run trained (`watch.weights`), so nothing is trained. Writes equal_displacement.nc.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree
from tqdm import tqdm

from experiments.command_line import Options, check_recording, main_of_runs
from neuron_mech import store, training
from neuron_mech.config import random_stream
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import constancies, counting, partitions, predictors
from neuron_mech.recording.recorder import Recorder
from neuron_mech.runs import Run
from neuron_mech.runs.study import beside
from neuron_mech.store import variable

NULLS = ("as it is", "displacement permuted", "displacement permuted, biases too")
"""The weights that are recorded: the kept ones themselves, and two nulls."""

NOTHING_KEPT = (
    "the run kept no parameters, as networks with running statistics do not, nor those whose parameters would take "
    "more than 256 MiB"
)


def displaced(start: PyTree, now: PyTree, key: Array, biases: bool) -> PyTree:
    """W(0) + P[W(t) - W(0)]: every layer's displacement with its entries permuted, the same way for the same key.

    Without `biases`, arrays of one dimension are those of `now`.
    """
    leaves = jax.tree.leaves(start)
    keys = jax.random.split(key, len(leaves))

    def one(begin: Array, end: Array, key: Array) -> Array:
        if begin.ndim < 2 and not biases:
            return end
        return begin + jax.random.permutation(key, (end - begin).ravel()).reshape(begin.shape)

    return jax.tree.map(one, start, now, jax.tree.unflatten(jax.tree.structure(start), list(keys)))


def recorded(run: Run, kept: Float[np.ndarray, "kept parameters"], null: str) -> tuple[Recorder, PyTree]:
    """(the recorder after a recording at each of the kept parameters under this null, the last of those)."""
    recorder = beside(run.study, len(kept))
    unravel = ravel_pytree(run.state.train.params)[1]
    start, key = unravel(kept[0]), random_stream(run.study.config.train.seed, "permuted displacement")
    move = jax.jit(displaced, static_argnames="biases")
    for row in tqdm(kept, desc=null, unit="recording", leave=False, disable=None):
        params = unravel(row)
        if null != NULLS[0]:
            params = move(start, params, key, biases=null == NULLS[2])
        recorder = recorder.update({"params": params})
    return recorder, params


def dataset(run: Run) -> xr.Dataset:
    """equal_displacement.nc: constancy by null, site and level, and of every neuron.

    Raises InputError where the run kept no parameters.
    """
    study, config = run.study, run.study.config
    if run.trajectories.weights is None:
        raise InputError(
            f"{NOTHING_KEPT}; watch.weights is {config.watch.weights}, record.mode {config.record.mode}: name another "
            "--run-dir"
        )
    kept = run.trajectories.all_weights()
    some = run.dataset.train.rows(study.recorded)
    curves, constancy, low, accuracy, agreeing = [], [], [], [], []
    own: dict[str, Array] = {}
    for null in NULLS:
        recorder, params = recorded(run, kept, null)
        tallies = recorder.counts()
        accuracy.append(float(training.accuracy(study.model, {"params": params}, some)))
        curves.append([constancies.constancy_curve(t.positive, t.negative) for t in tallies.values()])
        of = [counting.neuron_counts(tally) for tally in tallies.values()]
        with np.errstate(invalid="ignore"):
            constancy.append(np.concatenate([np.asarray(n.constant) / np.asarray(n.ever) for n in of]))
            low.append(np.concatenate([np.asarray(n.low) / np.asarray(n.ever) for n in of]))
        category = {site: partitions.categories(t.positive, t.negative) for site, t in tallies.items()}
        own = own or category
        agreeing.append(np.concatenate([np.asarray(predictors.agreement(c, own[s])) for s, c in category.items()]))
    neurons = [store.of_site(site, study.design.indices(site), {}) for site in study.sites]
    dims, levels = "null neuron", np.stack([np.stack(curve) for curve in curves])
    alike = "share of a neuron's pairs in the category that they have by the weights as they are"
    found = {
        "neuron_constancy": variable(dims, constancy, "share of |average sign| > 0.9 by null, each neuron"),
        "neuron_low_share": variable(dims, low, "share of pairs in the low category by null, each neuron"),
        "neuron_agreement": variable(dims, agreeing, alike),
        "constancy_curve": variable("null site level", levels, "share of pairs with |average sign| at least the level"),
        "accuracy": variable("null", accuracy, "accuracy on the recorded samples at the last recording"),
        "recordings": variable("", len(kept), "of each sample, evenly spread over the run", "recordings"),
    }
    labels = ("site", [study.label(site) for site in study.sites])
    coords = {"null": list(NULLS), "site": list(study.sites), "label": labels, "level": np.array(constancies.LEVELS)}
    attributes = {"preset": config.preset, "seed": config.train.seed}
    return store.stacked(neurons).assign(found).assign_coords(coords).assign_attrs(attributes)


def summary(found: xr.Dataset) -> str:
    """Constancy as it is and under each null."""
    lines = [
        f"{found.attrs['preset']}, seed {found.attrs['seed']}: {int(found.recordings)} recordings on weights displaced "
        "as far in another direction; share of pairs with |average sign| > 0.9, and in brackets = 1"
    ]
    for site in found.site.values:
        cells = []
        for null in found.null.values:
            at = found.sel(null=null, site=site)
            share = float(found.neuron_constancy.sel(null=null, neuron_site=site).mean())
            cells.append(f"{null} {share:.1%} ({float(at.constancy_curve[-1]):.1%})")
        lines.append(f"{found.label.sel(site=site).item()}: {'; '.join(cells)}")
    return "\n".join(lines)


@store.step("equal_displacement")
def report(run: Run) -> None:
    """Record a finished run's nulls, print the summary and write equal_displacement.nc.

    For a run that kept no parameters, as that of a large network, it only prints so.
    """
    if run.trajectories.weights is None:
        print(f"left out: {NOTHING_KEPT}")
        return
    found = dataset(run)
    store.write_dataset(run.directory / "equal_displacement.nc", found)
    print(summary(found))
    print(f"results: {run.directory / 'equal_displacement.nc'}")


def check(options: Options) -> None:
    """Refuse a run that keeps no parameters before anything is trained."""
    check_recording(options)
    for name in ("weights", "recordings"):
        if not getattr(options.watch, name):
            raise InputError(f"watch.{name} is 0, but this experiment is about the parameters kept: give at least 2")


if __name__ == "__main__":
    main_of_runs("equal_displacement", __doc__ or "", report, summary, check)
