"""A segment: one recording, then the training steps up to the next recording. An epoch is cut into segments.

Every recording sees the parameters before its batch's update, or where `record.when` says so after it. The recorder is
the one that a user's own loop has: in the modes eval and train a segment is `recorder.update(variables)` and then
steps; in mode online each step hands its activation gradients to `recorder.saw`; in mode none there is none.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neuron_mech import training
from neuron_mech.cluster import devices
from neuron_mech.config import random_stream
from neuron_mech.recording.online import Online
from neuron_mech.recording.recorder import Recorder
from neuron_mech.runs.study import Study
from neuron_mech.training import TrainState
from neuron_mech.training.augmentation import augmented
from neuron_mech.training.datasets import Samples

Recording = Recorder | Online | None
"""The recorder of a run; None in mode none."""

Ids = Int[Array | np.ndarray, "steps batch"]
Rest = Int[Array | np.ndarray, "last smaller"]


Segment = tuple[Int[np.ndarray, "steps batch"], Int[np.ndarray, "last smaller"] | None]
"""(sample ids of each full batch, sample ids of the epoch's last, smaller batch or None where it is not here)."""


def plan_epoch(study: Study, epoch: int) -> list[Segment]:
    """The epoch's batches, cut into segments. On the host.

    Batches are those of a random permutation of the samples. Within a batch, samples that more sites record come first.
    That order decides which sample gets which dropout mask: changing it would change the results of a seed.
    """
    size, every = study.config.train.batch_size, study.config.record.every
    row_of = np.full(study.samples, study.samples, np.int32)
    row_of[study.recorded] = np.arange(len(study.recorded), dtype=np.int32)
    order = training.epoch_order(study.config, study.samples, epoch)
    edges = sorted(set(study.design.rows.values()) or {len(study.recorded)})
    batch_of = np.arange(study.samples) // size
    order = order[np.lexsort((np.searchsorted(edges, row_of[order], side="right"), batch_of))]
    full = study.samples // size

    def ids(start: int, stop: int) -> Int[np.ndarray, "steps batch"]:
        return order[start * size : stop * size].reshape(stop - start, -1 if stop > start else size)

    segments: list[Segment] = []
    for start in range(0, study.batches, every):
        stop = min(start + every, study.batches)
        segments.append((ids(start, min(stop, full)), ids(full, stop) if stop > full else None))
    return segments


Advanced = tuple[TrainState, Recording, Float[Array, " losses"]]
"""(the state, the recorder, each step's loss in nats) after a segment."""


def advancing(study: Study) -> Callable[[TrainState, Recording, Samples, Ids, Rest | None], Advanced]:
    """`segment`, compiled: as one program, or where `design.stepwise`, as one program a chunk and one a step.

    The first two arguments are donated and must not be used again. State and training samples are replicated on all
    devices, recorded samples and their counts are sharded (see `cluster.devices`).
    """
    if not study.design.stepwise:
        return jax.jit(partial(segment, study), donate_argnums=(0, 1))
    after = study.config.record.when == "after"
    compiled_step = jax.jit(partial(step, study), donate_argnums=(0, 1))

    def advance(state: TrainState, recorder: Recording, train: Samples, ids: Ids, rest: Rest | None) -> Advanced:
        online: Online | None = None
        losses: list[Array] = []
        if not after:
            recorder, online = _recorded(state, recorder)
        for several in (ids,) if rest is None else (ids, rest):
            for one in several:
                (state, online), loss = compiled_step(state, online, train, one)
                losses.append(loss)
                if after and len(losses) == 1:
                    recorder, _ = _recorded(state, recorder)
        return state, recorder if online is None else online, jnp.stack(losses)

    return advance


def segment(
    study: Study, state: TrainState, recorder: Recording, train: Samples, ids: Ids, rest: Rest | None
) -> Advanced:
    """One recording, then the steps. Pure; `advancing` compiles it.

    `rest` is the epoch's last, smaller batch, if this is its last segment.
    """
    after = study.config.record.when == "after"
    online: Online | None = None
    if not after:
        recorder, online = _recorded(state, recorder)

    def one(carry: tuple[TrainState, Online | None], ids: Array) -> tuple[tuple[TrainState, Online | None], jax.Array]:
        return step(study, *carry, train, ids)

    first: list[Array] = []
    if after and len(ids):
        (state, _), loss = one((state, None), jnp.asarray(ids)[0])
        recorder, _ = _recorded(state, recorder)
        ids, first = ids[1:], [loss[None]]
    (state, online), losses = jax.lax.scan(one, (state, online), jnp.asarray(ids))
    losses = jnp.concatenate([*first, losses])
    if rest is not None:
        (state, online), last = one((state, online), jnp.asarray(rest)[0])
        if after and not len(losses):
            recorder, _ = _recorded(state, recorder)
        losses = jnp.append(losses, last)
    return state, recorder if online is None else online, losses


def _recorded(state: TrainState, recorder: Recording) -> tuple[Recording, Online | None]:
    """(the recorder after a recording of this state, the online recorder that training steps report to or None)."""
    if isinstance(recorder, Recorder):
        return recorder.update(state.variables, state.step), None
    return recorder, recorder


def step(
    study: Study, state: TrainState, online: Online | None, train: Samples, ids: Int[Array | np.ndarray, " batch"]
) -> tuple[tuple[TrainState, Online | None], jax.Array]:
    """A training step on these samples; in mode online the recorder sees its activation gradients. Pure."""
    batch = train.rows(ids)
    if study.config.data.augment:
        stream = random_stream(study.config.train.seed, "augmentation")
        batch = augmented(batch, jax.random.fold_in(stream, state.step))
    batch = devices.spread(batch, study.design.mesh)
    perturbations = {} if online is None else online.perturbations(len(batch))
    state, loss, gradients = training.train_step(
        study.model, study.optimizer, state, batch, perturbations, study.config.record.derivative
    )
    return (state, online if online is None else online.saw(gradients, ids)), loss
