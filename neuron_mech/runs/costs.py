"""The memory and disk that a run needs, computed and shown before anything else."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from neuron_mech.cluster import processes
from neuron_mech.cluster.memory import free_memory, size
from neuron_mech.errors import InputError
from neuron_mech.precision import Arithmetic
from neuron_mech.runs import trajectories
from neuron_mech.runs.planning import RunState
from neuron_mech.runs.study import Study
from neuron_mech.store import checkpoints
from neuron_mech.training.datasets import Dataset


@dataclass(frozen=True)
class Cost:
    """The largest number of bytes that a run needs, by purpose.

    `counts` and `device` are for each device (for the first of a process, which needs most); `host` is for each
    process that gathers the arrays of several devices.
    """

    counts: int
    device: int
    host: int
    trajectories: int
    checkpoints: int

    @property
    def disk(self) -> int:
        """Bytes on disk: trajectories and checkpoints."""
        return self.trajectories + self.checkpoints


def cost(study: Study, dataset: Dataset, state: RunState) -> Cost:
    """Bytes in memory and on disk, from the shapes of an `abstract_state`, before anything runs."""
    plan, several = study.plan, study.design.mesh.size
    # In mode online each device holds all counts and the signs not yet counted; in mode none there are neither.
    recorded = checkpoints.nbytes(state.recorded)
    counts = recorded if study.config.record.mode in ("none", "online") else plan.counts
    saved = checkpoints.nbytes(state)
    # With several devices, each holds the training set and its share of the recorded samples, in addition to the copy
    # of both on the process's first device.
    image = sum(leaf.nbytes for leaf in jax.tree.leaves(dataset.train.rows(np.arange(1))))
    again = sum(leaf.nbytes for leaf in jax.tree.leaves(dataset.train)) + plan.samples if several > 1 else 0
    return Cost(
        counts=counts,
        device=dataset.nbytes
        + image * len(study.recorded)
        + again
        + 4 * checkpoints.nbytes(state.train.params)
        + counts
        + plan.working,
        host=saved if several > 1 else 0,
        trajectories=sum(kept.nbytes for kept in (*study.watches, trajectories.weights(study)) if kept),
        checkpoints=(checkpoints.KEEP + 1) * saved,
    )


def announce(study: Study, cost: Cost, directory: Path) -> str:
    """A short table of what the run will record, and of the memory and disk it needs.

    Raises InputError, naming the fields to change, where they are not free.
    """
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
            f"record.samples (now {len(study.recorded)}), watch.recordings (now {watch.recordings}), "
            f"watch.wide_recordings (now {watch.wide_recordings}) or watch.weights (now {watch.weights})"
        )
    how = f"training in {arithmetic(study.config.train.precision)}"
    where = "the device" if study.design.mesh.size == 1 else f"each of {study.design.mesh.size} devices"
    if record.mode == "none":
        return f"no recording; {how}; {size(cost.device)} on {where}, up to {size(cost.disk)} on disk in {directory}"
    rows = [
        ("recordings", f"{study.recordings:,} ({record.mode}, {record.precision}), {how}"),
        *((f"  {site}", said) for site, said in study.plan.sites.items()),
        ("memory", f"{size(cost.counts)} of counts, {size(cost.device)} on {where}"),
        ("disk", f"{size(cost.trajectories)} of trajectories, up to {size(cost.checkpoints)} of checkpoints"),
        ("in", str(directory)),
    ]
    return "\n".join(f"{name:18} {said}" for name, said in rows)


def arithmetic(precision: Arithmetic) -> str:
    """The type in which this device computes float32 products, in a word."""
    by_itself = {"gpu": "TF32", "tpu": "bfloat16"}.get(jax.default_backend(), "float32")
    return by_itself if precision == "default" else "float32"
