"""One recording: a pass over the recorded samples, in chunks, that counts every derivative's sign.

Sites may have different numbers of recorded samples. They are nested: each site's are the first of one random order, so
that one forward pass serves every site that counts a sample, and no derivative is computed that no site counts.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from neuron_mech import taps
from neuron_mech.cluster import devices
from neuron_mech.config import random_stream
from neuron_mech.recording import counting
from neuron_mech.recording.chunks import in_chunks
from neuron_mech.recording.counting import Tally
from neuron_mech.runs.study import Study, Tallies
from neuron_mech.taps.objectives import OBJECTIVES
from neuron_mech.training import TrainState
from neuron_mech.training.datasets import Samples


def recorder(study: Study) -> Callable[[Tallies, TrainState, Samples], Tallies]:
    """`record`, compiled: as one program, or where `study.stepwise` says so as one a chunk. Tallies are donated."""
    if not study.stepwise:
        own = devices.each(lambda tallies, state, recorded, _: record(study, tallies, state, recorded), study.devices)
        return jax.jit(lambda tallies, state, recorded: own(tallies, state, recorded, state.step), donate_argnums=0)

    def chunk(tallies: Tallies, state: TrainState, recorded: Samples, start: Array, size: int) -> Tallies:
        return devices.each(partial(record_chunk, study, size=size), study.devices)(tallies, state, recorded, start)

    compiled_chunk = jax.jit(chunk, static_argnames="size", donate_argnums=0)

    def record_all(tallies: Tallies, state: TrainState, recorded: Samples) -> Tallies:
        limit = _chunk(study)
        for group in groups(study):
            part = _at(tallies, group.sites)
            for start in range(group.start, group.stop, limit):
                size = min(limit, group.stop - start)
                part = compiled_chunk(part, state, recorded, np.int32(start), size=size)
            tallies = {o: tallies[o] | part[o] for o in tallies}
        return tallies

    return record_all


class Group(NamedTuple):
    """Recorded samples, rows `start` to `stop`, that the same sites count."""

    start: int
    stop: int
    sites: tuple[str, ...]


def groups(study: Study) -> list[Group]:
    """The recorded samples by the sites that count them, in row order: the first are counted by all. Of each device."""
    rows = {site: devices.share(study.rows(site), study.devices) for site in study.sites}
    edges = sorted(set(rows.values()))
    return [
        Group(start, stop, tuple(site for site in study.sites if rows[site] >= stop))
        for start, stop in itertools.pairwise([0, *edges])
    ]


def _chunk(study: Study) -> int:
    """Samples of one pass, at most. With batch statistics a sample's derivative depends on its batch's size."""
    record = study.config.record
    return study.config.train.batch_size if record.mode == "probe-train" else record.chunk


def _at(tallies: Tallies, sites: tuple[str, ...]) -> Tallies:
    return {o: {site: tally for site, tally in by_site.items() if site in sites} for o, by_site in tallies.items()}


def record(study: Study, tallies: Tallies, state: TrainState, recorded: Samples) -> Tallies:
    """One recording of all recorded samples, chunk by chunk, so that memory is bounded whatever their number."""
    for group in groups(study):

        def count(part: Tallies, start: Array, size: int) -> Tallies:
            return record_chunk(study, part, state, recorded, start, size)

        part = in_chunks(count, _at(tallies, group.sites), group.start, group.stop, _chunk(study))
        tallies = {o: tallies[o] | part[o] for o in tallies}
    return tallies


def record_chunk(
    study: Study,
    tallies: Tallies,
    state: TrainState,
    recorded: Samples,
    start: Int[Array | np.integer, ""] | int,
    size: int,
) -> Tallies:
    """One recording of `size` recorded samples from row `start` on, at the sites that `tallies` has. Pure."""
    objectives: dict[str, taps.PerSampleLoss] = {name: OBJECTIVES[name] for name in study.config.objectives}
    derivative, precision = study.config.record.derivative, study.config.record.precision
    counted = tallies[study.config.record.objective]
    sites = {name: site for name, site in study.sites.items() if name in counted}
    samples = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), recorded)
    if study.config.record.mode == "probe":
        found = taps.per_sample_gradients(
            study.model, state.variables, samples.inputs, samples.labels, sites, objectives, derivative, precision
        )
    else:
        # Batches as training sees them, since with batch statistics a sample's derivative depends on its batch. The
        # statistics it would update are dropped: a recording leaves no trace in the training.
        noise = jax.random.fold_in(random_stream(study.config.train.seed, "probe-train"), state.step)
        found = taps.activation_gradients(
            study.model,
            state.variables,
            samples.inputs,
            samples.labels,
            taps.zeros(sites, size),
            objectives,
            derivative,
            precision,
            train=True,
            rngs={"dropout": jax.random.fold_in(noise, start)},
            mutable=list(state.statistics),
        )
    return {o: _update_rows(study, tallies[o], found[o], start) for o in tallies}


def _update_rows(
    study: Study,
    tallies: dict[str, Tally],
    gradients: dict[str, jax.Array],
    start: Int[Array | np.integer, ""] | int,
) -> dict[str, Tally]:
    """Update, in place under jit, the window of rows that begins at `start` and is as long as the gradients."""
    new = {}
    for site, tally in tallies.items():
        chosen, gradient = study.neurons[site], gradients[site]
        gradient = gradient if chosen is None else gradient[..., chosen]
        new[site] = counting.update_rows(tally, gradient, start)
    return new
