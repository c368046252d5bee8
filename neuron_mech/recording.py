"""Recording while training: which gradients are counted in each mode, and the segment, the unit of a run's work.

A run is a fixed list of segments. A segment is one recording (in the modes that record fixed samples) followed by
`record.every` training steps, so that every recording sees the parameters before its batch's update.

Sites may have different numbers of recorded samples. They are nested: each site's are the first of one random order, so
that one forward pass serves every site that counts a sample, and no derivative is computed that no site counts.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from neuron_mech import devices, gradient_signs, taps, training
from neuron_mech.augmentation import augmented
from neuron_mech.datasets import Samples
from neuron_mech.gradient_signs import Tally
from neuron_mech.objectives import OBJECTIVES
from neuron_mech.presets import Config, random_stream
from neuron_mech.taps import Site
from neuron_mech.training import TrainState

T = TypeVar("T")

Tallies = dict[str, dict[str, Tally]]
"""{objective: {site: Tally}}"""


class Counts(struct.PyTreeNode):
    """What recording carries from segment to segment.

    `epoch_signs` is empty but in mode online. There it holds, by site, the signs of this epoch's batches in the order
    in which they came, and the tallies take them over at the epoch's end: writing one byte a step and counting once an
    epoch costs a third of reading and writing three scattered integers a step.
    """

    tallies: Tallies
    epoch_signs: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What stays fixed through a run: the network, its recorded sites and neurons, and the sizes that follow.

    `neurons` holds, per site, the recorded neurons' indices, or None for all of them.
    """

    config: Config
    model: nn.Module
    optimizer: optax.GradientTransformation
    sites: dict[str, Site]
    neurons: dict[str, np.ndarray | None]
    recorded: Int[np.ndarray, " recorded"]
    """Ids of the recorded training samples, in the tally's row order; subsets for smaller counts are its prefixes."""
    samples: int
    """Size of the training set."""
    stepwise: bool = False
    """Whether loops are driven from the host; see `training.stepwise`."""
    devices: int = 1
    """Devices among which batches and, in the probe modes, recorded samples are divided; see `devices`."""

    @property
    def batches(self) -> int:
        """Batches an epoch, the last smaller one counted."""
        return training.batches(self.config, self.samples)

    @property
    def segments_per_epoch(self) -> int:
        """Segments, and in the probe modes recordings, an epoch."""
        return -(-self.batches // self.config.record.every)

    @property
    def segments(self) -> int:
        """Segments of the whole run."""
        return self.segments_per_epoch * self.config.train.epochs

    @property
    def recordings(self) -> int:
        """Recordings of one sample over the whole run."""
        return {"none": 0, "online": self.config.train.epochs}.get(self.config.record.mode, self.segments)

    def rows(self, site: str) -> int:
        """Recorded samples at a site, the tally's rows: the first so many of `recorded`."""
        limits = (entry.rpartition(":") for entry in self.config.record.site_samples)
        limit = next((int(count) for name, _, count in limits if fnmatchcase(site, name)), len(self.recorded))
        return min(limit, len(self.recorded))

    def label(self, site: str) -> str:
        """The site with its activation function, as the paper writes it: dense1-relu."""
        return f"{site}-{self.config.model.activation}"

    def indices(self, site: str) -> Int[np.ndarray, " neurons"]:
        """The recorded neurons of a site, ascending, as indices into all of its neurons."""
        chosen = self.neurons[site]
        return np.arange(self.sites[site].shape[-1]) if chosen is None else chosen

    def value_shape(self, site: str) -> tuple[int, ...]:
        """Shape of one sample's recorded values at a site: (positions ..., recorded neurons)."""
        chosen = self.neurons[site]
        shape = self.sites[site].shape
        return shape if chosen is None else (*shape[:-1], len(chosen))

    def empty_counts(self) -> Counts:
        """Counts before the first recording."""
        mode, size = self.config.record.mode, self.config.train.batch_size
        recorded = () if mode == "none" else self.sites
        objectives = () if mode == "none" else self.config.objectives
        tallies: Tallies = {
            o: {s: gradient_signs.empty((self.rows(s), *self.value_shape(s)), self.recordings) for s in recorded}
            for o in objectives
        }
        # A batch writes as many rows as it has samples, though not all are recorded: room for those of the last one.
        signs = {s: jnp.zeros((self.rows(s) + size, *self.value_shape(s)), jnp.int8) for s in recorded}
        return Counts(tallies, signs if mode == "online" else {})


def dealt(study: Study, counts: Counts) -> Counts:
    """The counts with each device holding its own samples'. In mode online every device holds all."""
    if study.devices == 1:
        return jax.tree.map(jnp.asarray, counts)
    if study.config.record.mode == "online":
        return devices.everywhere(counts, study.devices)
    return counts.replace(tallies=_by_site(study, counts.tallies, devices.deal))


def collected(study: Study, counts: Counts) -> Counts:
    """The inverse of `dealt`."""
    if study.config.record.mode == "online":
        return devices.on_one(counts, study.devices)
    return counts.replace(tallies=_by_site(study, counts.tallies, devices.collect))


def distinct(study: Study, site: str, tally: Tally) -> Tally:
    """Inside a compiled function: a dealt tally in which every sample counts once, so that sums over rows are right."""
    return tally if study.config.record.mode == "online" else devices.distinct(tally, study.rows(site), study.devices)


def held(study: Study, counts: Counts) -> Counts:
    """The shapes of what each device holds of the counts, from all their shapes."""
    if study.config.record.mode == "online":
        return counts

    def part(tally: Tally, count: int, several: int) -> Tally:
        rows = devices.share(count, several)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), tally)

    return counts.replace(tallies=_by_site(study, counts.tallies, part))


def _by_site(study: Study, tallies: Tallies, place: Callable[[Tally, int, int], Tally]) -> Tallies:
    return {
        o: {site: place(tally, study.rows(site), study.devices) for site, tally in by_site.items()}
        for o, by_site in tallies.items()
    }


def random_ids(config: Config, samples: int, count: int | Literal["all"]) -> Int[np.ndarray, " count"]:
    """`count` ids of training samples: the first of one random permutation, so that smaller choices are nested."""
    order = np.asarray(jax.random.permutation(random_stream(config.train.seed, "recorded samples"), samples))
    return order[: None if count == "all" else count].astype(np.int32)


def recorded_neurons(config: Config, site: str, neurons: int) -> np.ndarray | None:
    """Indices of the recorded neurons of a site, ascending; None for all."""
    if config.record.neurons == "all" or config.record.neurons >= neurons:
        return None
    key = random_stream(config.train.seed, f"recorded neurons of {site}")
    return np.sort(np.asarray(jax.random.permutation(key, neurons))[: config.record.neurons])


# --- The order of an epoch --------------------------------------------------------------------------------------------


class Steps(struct.PyTreeNode):
    """Training steps of equal batch size: sample ids, and by site how many recorded samples the epoch saw before each.

    Within a batch a site's recorded samples come first: the epoch's signs from row `offsets[site]` on are theirs.
    """

    ids: Int[Array | np.ndarray, "*steps batch"]
    offsets: dict[str, Int[Array | np.ndarray | np.integer, "*steps"]]


@dataclass(frozen=True)
class Epoch:
    """One epoch's segments, each full batches and perhaps the last, smaller one.

    Of the samples that a site records, in the order of this epoch, `positions[site][r]` is the place of its tally's
    row r.
    """

    segments: list[tuple[Steps, Steps | None]]
    positions: dict[str, Int[np.ndarray, " rows"]]


def plan_epoch(study: Study, epoch: int) -> Epoch:
    """The epoch's batches, cut into segments. On the host: a permutation and a few sums."""
    size, every = study.config.train.batch_size, study.config.record.every
    row_of = np.full(study.samples, study.samples, np.int32)
    row_of[study.recorded] = np.arange(len(study.recorded), dtype=np.int32)
    order = training.epoch_order(study.config, study.samples, epoch)
    # Within each batch, samples that more sites record come first: at every site, the signs of its own are neighbours.
    edges = sorted({study.rows(site) for site in study.sites} or {len(study.recorded)})
    batch_of = np.arange(study.samples) // size
    order = order[np.lexsort((np.searchsorted(edges, row_of[order], side="right"), batch_of))]
    offsets, positions = {}, {}
    for site in study.sites:
        seen = row_of[order] < study.rows(site)
        counts = np.bincount(batch_of, weights=seen, minlength=study.batches).astype(np.int32)
        offsets[site] = (np.cumsum(counts) - counts).astype(np.int32)
        positions[site] = np.argsort(row_of[order][seen]).astype(np.int32)

    def steps(start: int, stop: int) -> Steps:
        ids = order[start * size : stop * size].reshape(stop - start, -1 if stop > start else size)
        return Steps(ids, {site: at[start:stop] for site, at in offsets.items()})

    full = study.samples // size
    segments = []
    for start in range(0, study.batches, every):
        stop = min(start + every, study.batches)
        rest = steps(full, stop) if stop > full else None
        segments.append((steps(start, min(stop, full)), rest))
    return Epoch(segments, positions)


def end_epoch(counts: Counts, positions: dict[str, Int[Array | np.ndarray, " rows"]]) -> Counts:
    """The counts after an epoch: in mode online, its signs are taken over into the tallies. Pure; jit it."""
    return counts.replace(
        tallies={
            o: {
                site: gradient_signs.update(tally, counts.epoch_signs[site][positions[site]])
                if site in counts.epoch_signs
                else tally
                for site, tally in tallies.items()
            }
            for o, tallies in counts.tallies.items()
        }
    )


# --- The segment ------------------------------------------------------------------------------------------------------


def advancing(
    study: Study,
) -> Callable[
    [TrainState, Counts, Samples, Samples, Steps, Steps | None], tuple[TrainState, Counts, Float[Array, " steps"]]
]:
    """`segment`, compiled: as one program, or where `study.stepwise` says so as one a chunk and one a step.

    The first two arguments are donated: what comes back takes their place. With several devices, state and training
    samples are everywhere, counts and recorded samples dealt (see `devices`).
    """
    if not study.stepwise:
        return jax.jit(partial(segment, study), donate_argnums=(0, 1))

    record_all = recorder(study)
    compiled_step = jax.jit(partial(_step, study), donate_argnums=(0, 1))

    def advance(
        state: TrainState, counts: Counts, train: Samples, recorded: Samples, steps: Steps, rest: Steps | None
    ) -> tuple[TrainState, Counts, Float[Array, " steps"]]:
        if study.config.record.mode in ("probe", "probe-train"):
            counts = counts.replace(tallies=record_all(counts.tallies, state, recorded))
        signs, losses = counts.epoch_signs, []
        for several in (steps,) if rest is None else (steps, rest):
            for index in range(len(several.ids)):
                one = jax.tree.map(lambda leaf, index=index: leaf[index], several)
                (state, signs), loss = compiled_step(state, signs, train, one)
                losses.append(loss)
        return state, counts.replace(epoch_signs=signs), jnp.stack(losses)

    return advance


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


def segment(
    study: Study,
    state: TrainState,
    counts: Counts,
    train: Samples,
    recorded: Samples,
    steps: Steps,
    rest: Steps | None,
) -> tuple[TrainState, Counts, Float[Array, " steps"]]:
    """One recording, then the steps: (state, counts, each step's loss in nats). Pure; `advancing` compiles it.

    `recorded` are the recorded samples in the tally's row order, gathered once. `rest` is the epoch's last, smaller
    batch, if this is its last segment.
    """
    if study.config.record.mode in ("probe", "probe-train"):
        counts = counts.replace(tallies=recorder(study)(counts.tallies, state, recorded))

    def step(carry: tuple[TrainState, dict], steps: Steps) -> tuple[tuple[TrainState, dict], jax.Array]:
        return _step(study, *carry, train, steps)

    (state, signs), losses = jax.lax.scan(step, (state, counts.epoch_signs), steps)
    if rest is not None:
        (state, signs), last = step((state, signs), jax.tree.map(lambda leaf: leaf[0], rest))
        losses = jnp.append(losses, last)
    return state, counts.replace(epoch_signs=signs), losses


def _step(
    study: Study, state: TrainState, signs: dict[str, jax.Array], train: Samples, where: Steps
) -> tuple[tuple[TrainState, dict[str, jax.Array]], jax.Array]:
    """A training step; in mode online the signs of its activation gradients go to their place in the epoch's."""
    batch = train.rows(where.ids)
    if study.config.data.augment:
        stream = random_stream(study.config.train.seed, "augmentation")
        batch = augmented(batch, jax.random.fold_in(stream, state.step))
    batch = devices.spread(batch, study.devices)
    nudges = taps.zeros(study.sites, len(batch)) if signs else {}
    state, loss, gradients = training.train_step(
        study.model, study.optimizer, state, batch, nudges, study.config.record.derivative
    )
    # Rows past the batch's recorded samples are the next batch's, which overwrites them.
    signs = {
        site: jax.lax.dynamic_update_slice_in_dim(before, _sign(study, site, gradients[site]), where.offsets[site], 0)
        for site, before in signs.items()
    }
    return (state, signs), loss


def _sign(study: Study, site: str, gradient: jax.Array) -> jax.Array:
    """Signs as bytes, of the recorded neurons."""
    chosen = study.neurons[site]
    gradient = gradient if chosen is None else gradient[..., chosen]
    return (gradient > 0).astype(jnp.int8) - (gradient < 0).astype(jnp.int8)


# --- A recording ------------------------------------------------------------------------------------------------------


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


def in_chunks(step: Callable[[T, Array, int], T], carry: T, start: int, stop: int, chunk: int) -> T:
    """`carry` after `step(carry, row, size)` for every chunk of the rows `start` to `stop`, the last one smaller."""
    chunk = min(chunk, stop - start)
    whole, left = divmod(stop - start, chunk)
    carry = jax.lax.fori_loop(0, whole, lambda i, part: step(part, start + i * chunk, chunk), carry)
    return step(carry, jnp.asarray(stop - left), left) if left else carry


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
    derivative = study.config.record.derivative
    counted = tallies[study.config.record.objective]
    sites = {name: site for name, site in study.sites.items() if name in counted}
    samples = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), recorded)
    if study.config.record.mode == "probe":
        found = taps.per_sample_gradients(
            study.model, state.variables, samples.inputs, samples.labels, sites, objectives, derivative
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
        new[site] = gradient_signs.update_rows(tally, gradient, start)
    return new
