"""Training small networks of several seeds in one program: each costs a fraction of what it would cost alone."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from neuron_mech import taps
from neuron_mech.config import random_stream
from neuron_mech.taps import Edit, Site
from neuron_mech.taps.objectives import margin, right
from neuron_mech.training import TrainState, descend
from neuron_mech.training.datasets import Samples

Edits = Callable[[Int[Array, " batch"], Array], Mapping[str, Edit]]
"""(the batch's sample ids, a key of this step's own) -> edits of the activations of sites."""


def begin(model: nn.Module, sample: Samples, seeds: int) -> TrainState:
    """The states of so many runs before their first step, one beside the other (a leading axis)."""
    keys = (jnp.stack([random_stream(s, purpose) for s in range(seeds)]) for purpose in ("initialisation", "dropout"))
    return _begun(model, sample, *keys)


@partial(jax.jit, static_argnames="model")
def _begun(model: nn.Module, sample: Samples, initial: Array, dropout: Array) -> TrainState:
    def state(initial: Array, dropout: Array) -> TrainState:
        variables = model.init(initial, sample.inputs)
        statistics = {k: v for k, v in variables.items() if k not in ("params", "intermediates")}
        opt_state = optax.sgd(1.0).init(variables["params"])
        return TrainState(jnp.zeros((), jnp.int32), variables["params"], statistics, opt_state, dropout)

    return jax.vmap(state)(initial, dropout)


def orders(seeds: int, samples: int, batch: int, epoch: int) -> Int[np.ndarray, "seeds batches batch"]:
    """The ids of each batch of this epoch, for each seed: whole batches, what is left over waits for another epoch."""
    drawn = []
    for seed in range(seeds):
        key = jax.random.fold_in(random_stream(seed, "shuffling"), epoch)
        drawn.append(np.asarray(jax.random.permutation(key, samples), np.int32)[: samples // batch * batch])
    return np.stack(drawn).reshape(seeds, -1, batch)


def stretches(
    seeds: int, samples: int, batch: int, epochs: int, every: int
) -> Iterator[Int[np.ndarray, "seeds steps batch"]]:
    """The ids of `every` steps at a time, over all epochs; the last stretch of an epoch may be shorter."""
    for epoch in range(epochs):
        of = orders(seeds, samples, batch, epoch)
        for start in range(0, of.shape[1], every):
            yield of[:, start : start + every]


def unedited(ids: Array, key: Array) -> Mapping[str, Edit]:
    """Ordinary backpropagation."""
    return {}


def steps(
    model: nn.Module,
    state: TrainState,
    samples: Samples,
    ids: Int[Array, "steps batch"],
    learning_rate: float | Float[Array, ""],
    edits: Edits = unedited,
    masks: int = 1,
) -> TrainState:
    """One run's state after these steps of plain SGD on the mean cross-entropy, `softplus(margin)`. Pure.

    `masks`: the loss of a step is the mean over so many independent dropout masks.
    """
    optimizer = optax.sgd(learning_rate)

    def step(state: TrainState, ids: Array) -> tuple[TrainState, None]:
        batch, key = samples.rows(ids), jax.random.fold_in(state.key, state.step)
        run = taps.edited(model, post=edits(ids, jax.random.fold_in(key, 1)))

        def mean_loss(params: PyTree, _: Mapping[str, Array]) -> tuple[Array, PyTree]:
            def under(mask: Array) -> tuple[Array, PyTree]:
                how = {"train": True, "rngs": {"dropout": mask}, "mutable": list(state.statistics)}
                logits, statistics = run({"params": params, **state.statistics}, batch.inputs, **how)
                return nn.softplus(margin(logits, batch.labels)).mean(), statistics

            if masks == 1:
                return under(key)
            losses, statistics = jax.vmap(under)(jax.random.split(key, masks))
            return losses.mean(), jax.tree.map(lambda leaf: leaf.mean(0), statistics)

        return descend(optimizer, state, mean_loss, {})[0], None

    return jax.lax.scan(step, state, ids)[0]


def gradients(
    model: nn.Module, sites: Mapping[str, Site], variables: PyTree, samples: Samples, **kwargs: Any
) -> dict[str, Float[Array, "samples neurons"]]:
    """{site: every sample's derivative of the margin with respect to its activation}, by default in evaluation mode.

    Samples must not mix: in evaluation mode the networks here do not mix them.
    """
    perturbations = taps.zeros(sites, len(samples))
    inputs, labels = samples.inputs, samples.labels
    objectives = {"margin": margin}
    return taps.activation_gradients(
        model, variables, inputs, labels, perturbations, objectives, "activation", "fast", **kwargs
    )["margin"]


@partial(jax.jit, static_argnames="model")
def accuracies(model: nn.Module, states: TrainState, samples: Samples) -> Float[Array, " runs"]:
    """Share of samples that each of several runs gets right, in evaluation mode; 0 for one that diverged."""

    def share(variables: PyTree) -> Array:
        logits: Any = model.apply(variables, samples.inputs)
        return right(logits, samples.labels).mean(dtype=jnp.float32)

    return jax.lax.map(share, states.variables)
