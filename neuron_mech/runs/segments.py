"""A segment, the unit of a run's work: one recording, then the training steps to the next.

Every recording sees the parameters before its batch's update.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuron_mech import taps, training
from neuron_mech.cluster import devices
from neuron_mech.config import random_stream
from neuron_mech.runs.epochs import Steps
from neuron_mech.runs.passes import recorder
from neuron_mech.runs.study import Counts, Study
from neuron_mech.training import TrainState
from neuron_mech.training.augmentation import augmented
from neuron_mech.training.datasets import Samples


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
    perturbations = taps.zeros(study.sites, len(batch)) if signs else {}
    state, loss, gradients = training.train_step(
        study.model, study.optimizer, state, batch, perturbations, study.config.record.derivative
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
