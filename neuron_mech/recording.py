"""Recording while training: which gradients are counted in each mode, and the segment, one jitted call.

A run is a fixed list of segments. A segment is one recording (in the modes that record fixed samples) followed by
`record.every` training steps, so that every recording sees the parameters before its batch's update.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from neuron_mech import gradient_signs, taps, training
from neuron_mech.datasets import Samples
from neuron_mech.gradient_signs import Tally
from neuron_mech.objectives import OBJECTIVES
from neuron_mech.presets import Config, random_stream
from neuron_mech.taps import Site
from neuron_mech.training import TrainState

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

    @property
    def batches(self) -> int:
        """Batches an epoch, the last smaller one counted."""
        return -(-self.samples // self.config.train.batch_size)

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

    def value_shape(self, site: str) -> tuple[int, ...]:
        """Shape of one sample's recorded values at a site: (positions ..., recorded neurons)."""
        chosen = self.neurons[site]
        shape = self.sites[site].shape
        return shape if chosen is None else (*shape[:-1], len(chosen))

    def empty_counts(self) -> Counts:
        """Counts before the first recording."""
        mode, rows = self.config.record.mode, len(self.recorded)
        shapes = {} if mode == "none" else {site: self.value_shape(site) for site in self.sites}
        objectives = () if mode == "none" else self.config.objectives
        tallies: Tallies = {
            o: {site: gradient_signs.empty((rows, *shape), self.recordings) for site, shape in shapes.items()}
            for o in objectives
        }
        # A batch writes as many rows as it has samples, though not all are recorded: room for those of the last one.
        written = rows + self.config.train.batch_size
        signs = {site: jnp.zeros((written, *shape), jnp.int8) for site, shape in shapes.items()}
        return Counts(tallies, signs if mode == "online" else {})


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
    """Training steps of equal batch size: sample ids, and how many recorded samples the epoch had seen before each.

    Within a batch the recorded samples come first: the epoch's signs from row `offsets` on are theirs.
    """

    ids: Int[Array | np.ndarray, "*steps batch"]
    offsets: Int[Array | np.ndarray, "*steps"]


@dataclass(frozen=True)
class Epoch:
    """One epoch's segments, each full batches and perhaps the last, smaller one.

    `positions[r]` is the place, among the recorded samples in the order of this epoch, of the tally's row r.
    """

    segments: list[tuple[Steps, Steps | None]]
    positions: Int[np.ndarray, " recorded"]


def plan_epoch(study: Study, epoch: int) -> Epoch:
    """The epoch's batches, cut into segments. On the host: a permutation and a few sums."""
    size, every = study.config.train.batch_size, study.config.record.every
    row_of = np.full(study.samples, -1, np.int32)
    row_of[study.recorded] = np.arange(len(study.recorded), dtype=np.int32)
    order = training.epoch_order(study.config, study.samples, epoch)
    # Within each batch, recorded samples first: their signs are then neighbours in the epoch's.
    batch_of = np.arange(study.samples) // size
    order = order[np.lexsort((row_of[order] < 0, batch_of))]
    rows = row_of[order][row_of[order] >= 0]
    counts = np.bincount(batch_of, weights=row_of[order] >= 0, minlength=study.batches).astype(np.int32)
    offsets = (np.cumsum(counts) - counts).astype(np.int32)

    def steps(start: int, stop: int) -> Steps:
        ids = order[start * size : stop * size].reshape(stop - start, -1 if stop > start else size)
        return Steps(ids, offsets[start:stop])

    full = study.samples // size
    segments = []
    for start in range(0, study.batches, every):
        stop = min(start + every, study.batches)
        rest = steps(full, stop) if stop > full else None
        segments.append((steps(start, min(stop, full)), rest))
    return Epoch(segments, np.argsort(rows).astype(np.int32))


def end_epoch(counts: Counts, positions: Int[Array | np.ndarray, " recorded"]) -> Counts:
    """The counts after an epoch: in mode online, its signs are taken over into the tallies. Pure; jit it."""
    return counts.replace(
        tallies={
            o: {
                site: gradient_signs.update(tally, counts.epoch_signs[site][positions])
                if site in counts.epoch_signs
                else tally
                for site, tally in tallies.items()
            }
            for o, tallies in counts.tallies.items()
        }
    )


# --- The segment ------------------------------------------------------------------------------------------------------


def segment(
    study: Study,
    state: TrainState,
    counts: Counts,
    train: Samples,
    recorded: Samples,
    steps: Steps,
    rest: Steps | None,
) -> tuple[TrainState, Counts, Float[Array, " steps"]]:
    """One recording, then the steps: (state, counts, each step's loss in nats). Pure; jit it with `study` bound.

    `recorded` are the recorded samples in the tally's row order, gathered once. `rest` is the epoch's last, smaller
    batch, if this is its last segment.
    """
    if study.config.record.mode in ("probe", "probe-train"):
        counts = counts.replace(tallies=record(study, counts.tallies, state, recorded))
    signs = counts.epoch_signs

    def step(carry: tuple[TrainState, dict], steps: Steps) -> tuple[tuple[TrainState, dict], jax.Array]:
        return _step(study, *carry, train.rows(steps.ids), steps)

    (state, signs), losses = jax.lax.scan(step, (state, signs), steps)
    if rest is not None:
        (state, signs), last = step((state, signs), jax.tree.map(lambda leaf: leaf[0], rest))
        losses = jnp.append(losses, last)
    return state, counts.replace(epoch_signs=signs), losses


def _step(
    study: Study, state: TrainState, signs: dict[str, jax.Array], batch: Samples, where: Steps
) -> tuple[tuple[TrainState, dict[str, jax.Array]], jax.Array]:
    """A training step; in mode online the signs of its activation gradients go to their place in the epoch's."""
    nudges = taps.zeros(study.sites, len(batch)) if signs else {}
    state, loss, gradients = training.train_step(
        study.model, study.optimizer, state, batch, nudges, study.config.record.derivative
    )
    # Rows past the batch's recorded samples are the next batch's, which overwrites them.
    signs = {
        site: jax.lax.dynamic_update_slice_in_dim(before, _sign(study, site, gradients[site]), where.offsets, 0)
        for site, before in signs.items()
    }
    return (state, signs), loss


def _sign(study: Study, site: str, gradient: jax.Array) -> jax.Array:
    """Signs as bytes, of the recorded neurons."""
    chosen = study.neurons[site]
    gradient = gradient if chosen is None else gradient[..., chosen]
    return (gradient > 0).astype(jnp.int8) - (gradient < 0).astype(jnp.int8)


def record(study: Study, tallies: Tallies, state: TrainState, recorded: Samples) -> Tallies:
    """One recording of all recorded samples, chunk by chunk, so that memory is bounded whatever their number."""
    objectives: dict[str, taps.PerSampleLoss] = {name: OBJECTIVES[name] for name in study.config.objectives}
    derivative = study.config.record.derivative
    noise = jax.random.fold_in(random_stream(study.config.train.seed, "probe-train"), state.step)

    def gradients(samples: Samples, start: Int[Array, ""]) -> dict[str, dict[str, jax.Array]]:
        if study.config.record.mode == "probe":
            return taps.per_sample_gradients(
                study.model, state.variables, samples.inputs, samples.labels, study.sites, objectives, derivative
            )
        # Batches as training sees them, since with batch statistics a sample's derivative depends on its batch. The
        # statistics it would update are dropped: a recording leaves no trace in the training.
        return taps.activation_gradients(
            study.model,
            state.variables,
            samples.inputs,
            samples.labels,
            taps.zeros(study.sites, len(samples)),
            objectives,
            derivative,
            train=True,
            rngs={"dropout": jax.random.fold_in(noise, start)},
            mutable=list(state.statistics),
        )

    def count(start: Int[Array, ""] | int, size: int, tallies: Tallies) -> Tallies:
        samples = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), recorded)
        found = gradients(samples, jnp.asarray(start))
        return {o: _update_rows(study, tallies[o], found[o], start) for o in tallies}

    limit = study.config.train.batch_size if study.config.record.mode == "probe-train" else study.config.record.chunk
    chunk = min(limit, len(recorded))
    whole, left = divmod(len(recorded), chunk)
    tallies = jax.lax.fori_loop(0, whole, lambda i, t: count(i * chunk, chunk, t), tallies)
    return count(whole * chunk, left, tallies) if left else tallies


def _update_rows(
    study: Study,
    tallies: dict[str, Tally],
    gradients: dict[str, jax.Array],
    start: Int[Array | np.ndarray, ""] | int,
) -> dict[str, Tally]:
    """Update, in place under jit, the window of rows that begins at `start` and is as long as the gradients."""
    new = {}
    for site, tally in tallies.items():
        chosen, gradient = study.neurons[site], gradients[site]
        gradient = gradient if chosen is None else gradient[..., chosen]
        window = jax.tree.map(partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=len(gradient)), tally)
        window = gradient_signs.update(window, gradient)
        new[site] = jax.tree.map(lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, start, 0), tally, window)
    return new
