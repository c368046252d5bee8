"""What a run studies, what it starts from, and what it will cost: all before anything is computed."""

import fnmatch
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import struct

from neuron_mech import taps, training
from neuron_mech.cluster import devices, processes
from neuron_mech.cluster.memory import free_memory, size
from neuron_mech.config import Config
from neuron_mech.errors import InputError
from neuron_mech.precision import Arithmetic
from neuron_mech.runs import trajectories
from neuron_mech.runs.study import Counts, Study, held, random_ids, recorded_neurons
from neuron_mech.runs.trajectories import Watched
from neuron_mech.store import checkpoints
from neuron_mech.taps import Site
from neuron_mech.training import TrainState, models
from neuron_mech.training.datasets import Dataset, Samples
from neuron_mech.training.models import Neurons


class RunState(struct.PyTreeNode):
    """All that a resumed run needs; the number of finished segments is the checkpoint's step.

    `at_saturation` holds the main objective's (positive, negative) counts at the end of the epoch in which training
    accuracy first reached `record.saturation`: zeros until then. `history` holds one value a step or an epoch, NaN
    where the run has not been yet. `watched` holds, by watch, its accuracy at every recording kept, and the checksums
    of the trajectories on disk.
    """

    train: TrainState
    counts: Counts
    at_saturation: dict[str, tuple[np.ndarray, np.ndarray]]
    history: dict[str, np.ndarray]
    watched: Watched


def sites(config: Config, model: nn.Module, sample: Samples) -> dict[str, Site]:
    """All sites of the network, from shapes alone: a wrong name is said before anything is computed."""
    return taps.sites(model, _shapes(config, model, sample), sample.inputs)


def _shapes(config: Config, model: nn.Module, sample: Samples) -> dict[str, Any]:
    """The network's variables, in shapes."""
    return jax.eval_shape(lambda: training.init(config, model, sample).variables)


STEPS = 10**9
"""Training steps of a run, at most: the loss of each is kept."""


def _check_size(config: Config, variables: Mapping[str, Any], batches: int) -> None:
    """Raise InputError for a network or a history that has no room, before either is made."""
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
    """What a run studies, and the state it starts from. Raises InputError for sites, samples or neurons not there."""
    model = models.build(config.model, dataset.classes)
    size = len(dataset.train)
    if config.record.samples != "all" and config.record.samples > size:
        raise InputError(f"record.samples is {config.record.samples}, but {dataset.name} has {size} training samples")
    if config.train.batch_size > size:
        raise InputError(
            f"train.batch_size is {config.train.batch_size}, but {dataset.name} has {size} training samples"
        )
    one = dataset.train.rows(np.arange(1))
    shapes = _shapes(config, model, one)
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
    neurons = {name: recorded_neurons(config, name, site.shape[-1]) for name, site in chosen.items()}
    found = Study(
        config,
        model,
        training.optimizer(config, size),
        chosen,
        neurons,
        random_ids(config, size, config.record.samples),
        size,
        training.stepwise(training.convolutional(available.values())),
        jax.device_count(),
    )
    return found, training.init(config, model, one)


def outline(study: Study, train: TrainState) -> RunState:
    """The state before the first segment, with shapes in the place of its counts: what `cost` and a restore need.

    Counts can be larger than the machine, so nothing is allocated for them before that is known.
    """
    epochs, counts = study.config.train.epochs, jax.eval_shape(study.empty_counts)
    history = {
        "loss": np.full(study.batches * epochs, np.nan, np.float32),
        "train_accuracy": np.full(epochs, np.nan, np.float32),
        "test_accuracy": np.full(epochs, np.nan, np.float32),
        "saturation_epoch": np.full(1, -1, np.int32),
    }
    if counts.tallies:
        history["constancy"] = np.full((len(study.config.objectives), len(study.sites), epochs), np.nan)
    at_saturation = {
        site: (
            np.zeros(tally.positive.shape, tally.positive.dtype),
            np.zeros(tally.positive.shape, tally.positive.dtype),
        )
        for site, tally in counts.tallies.get(study.config.record.objective, {}).items()
    }
    return RunState(train, counts, at_saturation, history, trajectories.nothing_kept(trajectories.watches(study)))


def start(study: Study, train: TrainState) -> RunState:
    """The state before the first segment; its counts are the host's, to be dealt among the devices."""
    before = outline(study, train)
    return before.replace(counts=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), before.counts))


@dataclass(frozen=True)
class Cost:
    """Bytes a run takes at most, by what they are for.

    `counts` and `device` are of each device, the first of a process, which holds most; `host` of each process, where it
    has to bring together what several devices hold.
    """

    counts: int
    device: int
    host: int
    trajectories: int
    checkpoints: int

    @property
    def disk(self) -> int:
        """Trajectories and checkpoints together."""
        return self.trajectories + self.checkpoints


def cost(study: Study, dataset: Dataset, state: RunState) -> Cost:
    """Bytes in memory and on disk, from the shapes of an `outline`, before anything runs."""
    counts = checkpoints.nbytes(held(study, state.counts))
    parameters = checkpoints.nbytes(state.train.params)
    one = dataset.train.rows(np.arange(1))
    image, pixels = one.images.nbytes, one.inputs.size
    values = sum(int(np.prod(site.shape)) for site in study.sites.values())
    everything = taps.sites(study.model, state.train.variables, one.inputs).values()
    passing = sum(int(np.prod(site.shape)) for site in everything)
    recorded = devices.share(len(study.recorded), study.devices)
    chunk = min(study.config.record.chunk, recorded)
    # In float32, a chunk's inputs, at each recorded site its value, its gradient, and one temporary, and what a forward
    # pass keeps of every layer for the way back.
    working = chunk * 4 * (pixels + 3 * values * len(study.config.objectives) + passing)
    saved = checkpoints.nbytes(state)
    # With several devices each holds the training set and its share of the recorded samples beside what the process
    # keeps of both, on its first.
    again = sum(leaf.nbytes for leaf in jax.tree.leaves(dataset.train)) + image * recorded if study.devices > 1 else 0
    return Cost(
        counts=counts,
        device=dataset.nbytes + image * len(study.recorded) + again + 4 * parameters + counts + working,
        host=saved if study.devices > 1 else 0,
        trajectories=sum(watch.nbytes for watch in trajectories.watches(study)),
        checkpoints=(checkpoints.KEEP + 1) * saved,
    )


def announce(study: Study, cost: Cost, directory: Path) -> str:
    """One line that says what the run will take. Raises InputError, naming fields to change, where it cannot fit."""
    device = jax.local_devices()[0]
    room, shared = free_memory()
    needed = cost.device * jax.local_device_count() + cost.host if shared else cost.device
    record = study.config.record
    if needed > room:
        raise InputError(
            f"recording needs {size(needed)} of {device.platform} memory and {size(room)} are free: lower "
            f"record.samples (now {len(study.recorded)}), record.neurons (now {record.neurons}) or record.chunk "
            f"(now {record.chunk}), limit record.site_samples, or name fewer record.sites (now "
            f"{', '.join(study.sites)})"
        )
    free = shutil.disk_usage(directory).free if processes.first() else cost.disk  # the first writes for all
    written = (f for part in ("checkpoints", "trajectories") for f in (directory / part).rglob("*") if f.is_file())
    if cost.disk - sum(f.stat().st_size for f in written) > free:
        watch = study.config.watch
        raise InputError(
            f"checkpoints need up to {size(cost.checkpoints)} in --run-dir {directory}, trajectories "
            f"{size(cost.trajectories)}, and {size(free)} are free: make room, name another directory, or lower "
            f"record.samples (now {len(study.recorded)}), watch.recordings (now {watch.recordings}) or "
            f"watch.wide_recordings (now {watch.wide_recordings})"
        )
    how = f"training in {arithmetic(study.config.train.precision)}"
    where = "the device" if study.devices == 1 else f"each of {study.devices} devices"
    if record.mode == "none":
        return f"no recording; {how}; {size(cost.device)} on {where}, up to {size(cost.disk)} on disk in {directory}"
    parts = (
        f"{site} ({study.rows(site):,} samples x {int(np.prod(study.value_shape(site))):,} values)"
        for site in study.sites
    )
    return (
        f"{study.recordings:,} recordings ({record.mode}, {record.precision}; {how}) of {', '.join(parts)}: "
        f"{size(cost.counts)} of counts, "
        f"{size(cost.device)} on {where}; on disk in {directory} {size(cost.trajectories)} of trajectories and up "
        f"to {size(cost.checkpoints)} of checkpoints"
    )


def arithmetic(precision: Arithmetic) -> str:
    """What float32 products are computed in here, in a word."""
    by_itself = {"gpu": "TF32", "tpu": "bfloat16"}.get(jax.default_backend(), "float32")
    return by_itself if precision == "default" else "float32"
