"""A run's `Study` and its first state, made before anything is trained or recorded."""

import fnmatch
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import struct

from neuron_mech import taps, training
from neuron_mech.cluster import devices
from neuron_mech.cluster.memory import free_memory, size
from neuron_mech.config import Config, random_stream
from neuron_mech.errors import InputError
from neuron_mech.recording.design import Design
from neuron_mech.recording.plan import Plan
from neuron_mech.runs import trajectories
from neuron_mech.runs.study import Study, abstract_recorded, random_ids, recorded_neurons, tallies
from neuron_mech.runs.trajectories import Watched
from neuron_mech.store import checkpoints
from neuron_mech.taps import Site
from neuron_mech.taps.objectives import HALVES, OBJECTIVES
from neuron_mech.training import TrainState, models
from neuron_mech.training.datasets import Dataset, Samples
from neuron_mech.training.models import Neurons


class RunState(struct.PyTreeNode):
    """Everything that a resumed run needs; the number of finished segments is the checkpoint's step.

    `at_saturation` holds the main objective's (positive, negative) counts at the end of the epoch in which training
    accuracy first reached `record.saturation`: zeros until then. `at_half` holds by site the categories by the
    recordings of the first half of the epochs: zeros until then. `history` holds one value a step or an epoch, NaN
    where the run has not been yet. `watched` holds, by watch, its accuracy at every recording kept, and the checksums
    of the trajectories and weights on disk.
    """

    train: TrainState
    recorded: dict[str, Any]
    at_saturation: dict[str, tuple[np.ndarray, np.ndarray]]
    at_half: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    watched: Watched


def shapes_of(config: Config, model: nn.Module, sample: Samples) -> dict[str, Any]:
    """The shapes of the network's variables; nothing is computed."""
    return jax.eval_shape(lambda: training.init(config, model, sample).variables)


STEPS = 10**9
"""Largest number of training steps in a run: the loss of each is kept."""


def _check_size(config: Config, variables: Mapping[str, Any], batches: int) -> None:
    """Raise InputError for a network or a history of losses that does not fit in memory."""
    if (steps := batches * config.train.epochs) > STEPS:
        raise InputError(
            f"train.epochs is {config.train.epochs}, with train.batch_size {config.train.batch_size} {steps:,} steps: "
            f"at most {STEPS:,} can be kept; lower the first, or raise the second"
        )
    needed, (room, _) = 4 * checkpoints.nbytes(variables), free_memory()
    if needed > room:
        raise InputError(
            f"the network needs {size(needed)} of memory and {size(room)} are free: lower model.width (now "
            f"{config.model.width:g})" + (f" or model.depth (now {config.model.depth})" if config.model.depth else "")
        )


def study(config: Config, dataset: Dataset) -> tuple[Study, TrainState]:
    """(a run's study, the state before its first step).

    Raises InputError for sites that the network does not have, and for more samples than the data set has.
    """
    model = models.build(config.model, dataset.classes)
    size = len(dataset.train)
    if config.record.samples != "all" and config.record.samples > size:
        raise InputError(f"record.samples is {config.record.samples}, but {dataset.name} has {size} training samples")
    if config.train.batch_size > size:
        raise InputError(
            f"train.batch_size is {config.train.batch_size}, but {dataset.name} has {size} training samples"
        )
    one = dataset.train.rows(np.arange(1))
    shapes = shapes_of(config, model, one)
    available = taps.sites(model, shapes, one.inputs)
    chosen = taps.select(available, config.record.sites, "record.sites")
    for entry in config.record.site_samples:
        if not fnmatch.filter(available, entry.rpartition(":")[0]):
            raise InputError(f"record.site_samples has {entry!r}, which is no site; sites are: {', '.join(available)}")
    if config.record.mode != "none" and config.record.derivative == "activation":
        for site in chosen.values():
            if site.kind != Neurons.__name__:
                raise InputError(
                    f"record.sites names {site.name!r}, a {site.kind}, which has no activation: name sites that have "
                    "one, or all, or set record.derivative to pre_activation"
                )
    _check_size(config, shapes, training.batches(config, size))
    ids = random_ids(config, size, config.record.samples)
    every = sum(int(np.prod(site.shape)) for site in available.values())
    design = _design(config, model, dataset.train, chosen, shapes, available)
    plan = Plan(design, shapes, dataset.train.images, dataset.train.labels, ids, {}, every)
    found = Study(config, model, training.optimizer(config, size), plan, size)
    return replace(found, watches=trajectories.watches(found)), training.init(config, model, one)


def _design(
    config: Config,
    model: nn.Module,
    train: Samples,
    sites: dict[str, Site],
    shapes: Mapping[str, Any],
    available: Mapping[str, Site],
) -> Design:
    """The design of the run's recorder."""
    record, batched = config.record, config.record.mode == "train"
    most = len(train) if record.samples == "all" else record.samples
    limits = [(name, int(count)) for name, _, count in (entry.rpartition(":") for entry in record.site_samples)]
    rows = {s: next((min(n, most) for name, n in limits if fnmatch.fnmatchcase(s, name)), most) for s in sites}
    segments = -(-training.batches(config, len(train)) // record.every) * config.train.epochs
    # Mode train records whole batches, since with batch statistics a sample's derivative depends on its batch. Updates
    # of the running statistics are dropped, so that a recording does not change the training.
    as_training = {"train": True, "mutable": [name for name in shapes if name != "params"]}
    return Design(
        model=model,
        losses={name: OBJECTIVES[name] for name in config.objectives},
        halves={name: 1 / config.train.batch_size for name in config.objectives if name in HALVES},
        sites=sites,
        rows=rows,
        neurons={name: recorded_neurons(config, name, site.shape[-1]) for name, site in sites.items()},
        positions=dict.fromkeys(sites),
        derivative=record.derivative,
        precision=record.precision,
        recordings={"none": 0, "online": config.train.epochs}.get(record.mode, segments),
        chunk=config.train.batch_size if batched else record.chunk,
        mesh=devices.mesh(),
        stepwise=training.stepwise(training.convolutional(available.values())),
        shapes=shapes,
        batched=batched,
        prepare=train.prepared,
        # An older name of mode train: changing it would change the random numbers.
        rngs={"dropout": random_stream(config.train.seed, "probe-train")} if batched else None,
        kwargs=as_training if batched else None,
    )


def abstract_state(study: Study, train: TrainState) -> RunState:
    """The state before the first segment, with shapes instead of counts: what `cost` and restoring need.

    Counts may be larger than memory, so nothing is allocated for them before `costs.announce` has checked.
    """
    epochs, recorded = study.config.train.epochs, abstract_recorded(study)
    history = {
        "loss": np.full(study.batches * epochs, np.nan, np.float32),
        "train_accuracy": np.full(epochs, np.nan, np.float32),
        "test_accuracy": np.full(epochs, np.nan, np.float32),
        "saturation_epoch": np.full(1, -1, np.int32),
    }
    if recorded:
        history["constancy"] = np.full((len(study.config.objectives), len(study.sites), epochs), np.nan)
    zeros = {
        site: np.zeros(tally.positive.shape, tally.positive.dtype)
        for site, tally in tallies(study, recorded).get(study.design.main, {}).items()
    }
    at_saturation = {site: (none, none.copy()) for site, none in zeros.items()}
    at_half = {site: np.zeros(none.shape, np.int8) for site, none in zeros.items()}
    watched = trajectories.nothing_kept(study.watches, trajectories.weights(study))
    return RunState(train, recorded, at_saturation, at_half, history, watched)
