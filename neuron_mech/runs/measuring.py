"""Measures of a run beside its recordings: accuracies and constancy by epoch, and whether its samples mix."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from neuron_mech import training
from neuron_mech.cluster import devices
from neuron_mech.recording import counting
from neuron_mech.recording.counting import Tally
from neuron_mech.runs.segments import Recording
from neuron_mech.runs.study import Study, random_ids
from neuron_mech.taps import sample_mixing
from neuron_mech.taps.objectives import OBJECTIVES
from neuron_mech.training import TrainState
from neuron_mech.training.datasets import Dataset

SATURATION_SAMPLES = 10_000
"""Training accuracy is measured on this many random training samples, or on all where there are fewer."""


def measures(study: Study, dataset: Dataset) -> Callable[[TrainState, Recording], dict[str, Any]]:
    """The function that measures at the end of an epoch: accuracies, and constancy so far by objective and site."""
    ids = random_ids(study.config, study.samples, SATURATION_SAMPLES)
    some = dataset.train.rows(ids)
    accuracy = jax.jit(lambda variables, samples: training.accuracy(study.model, variables, samples))

    @partial(jax.jit, static_argnames="site")
    def constant_counts(tally: Tally, site: str) -> tuple[jax.Array, jax.Array]:
        # Except in mode online, devices may hold a sample twice (`devices.share`); every sample must count once.
        dealt = study.config.record.mode != "online"
        held = devices.distinct(tally, study.design.rows[site], study.design.mesh) if dealt else tally
        return counting.constant_counts(held.positive, held.negative)

    def measure(train: TrainState, recorder: Recording) -> dict[str, Any]:
        measured: dict[str, Any] = {
            "train_accuracy": float(accuracy(train.variables, some)),
            "test_accuracy": float(accuracy(train.variables, dataset.test)),
        }
        if recorder is not None:
            measured["constancy"] = [
                [counting.constancy(*constant_counts(recorder.tallies[o][site], site)) for site in study.sites]
                for o in study.design.losses
            ]
        return measured

    return measure


def mixing(study: Study, train: TrainState, dataset: Dataset) -> dict[str, float]:
    """`sample_mixing.mixing` of the derivatives as this run records them; {} in modes where samples cannot mix."""
    if study.config.record.mode not in ("train", "online"):
        return {}
    batch = dataset.train.rows(random_ids(study.config, study.samples, 32))
    common = (study.model, train.variables, batch.inputs, batch.labels)
    how: dict[str, Any] = {"train": True, "rngs": {"dropout": train.key}, "mutable": list(train.statistics)}
    return sample_mixing.mixing(*common, study.sites, OBJECTIVES["margin"], study.config.record.derivative, **how)
