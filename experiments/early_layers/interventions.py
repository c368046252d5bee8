"""The same networks trained again, with the signs of their derivatives frozen, turned at random, or averaged."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from experiments.open_questions import training
from experiments.open_questions.network import Layers
from experiments.open_questions.options import Options
from neuron_mech import taps
from neuron_mech.config import random_stream
from neuron_mech.recording import predictors
from neuron_mech.taps import Edit
from neuron_mech.training import TrainState
from neuron_mech.training.datasets import Dataset, Samples

Categories = Mapping[str, Int[np.ndarray, "seeds samples neurons"]]

FROZEN = ("own", "own, first epoch", "class at start", "another seed", "own, shuffled")
"""Whose categories the derivatives' signs are."""

MASKS = (4, 16)
"""Dropout masks a step that the loss is averaged over; ordinary training has one."""


def frozen_to(arm: str, categories: Mapping[str, Categories], labels: Int[np.ndarray, " samples"]) -> Categories:
    """The categories of an arm of FROZEN, from those of the ordinary runs (`Recorded.categories`)."""
    whole = categories["whole run"]
    if arm == "own":
        return whole
    if arm == "own, first epoch":
        return categories["first epoch"]
    if arm == "another seed":
        return {site: np.roll(of, 1, axis=0) for site, of in whole.items()}
    if arm == "own, shuffled":
        # The same for all neurons of a sample, so that only the link to the sample is cut.
        order = np.random.default_rng(0).permutation(len(labels))
        return {site: of[:, order] for site, of in whole.items()}
    first = categories["first recording"].items()
    return {site: np.stack([predictors.of_most_of_the_class(one, labels) for one in of]) for site, of in first}


Turn = tuple[tuple[str, float], ...]
"""For each site, the probability with which a derivative's sign is turned."""


def train(
    model: Layers,
    dataset: Dataset[Samples],
    options: Options,
    learning_rate: float,
    name: str,
    categories: Categories,
    dropped: bool = False,
    turned: Turn = (),
    masks: int = 1,
) -> Float[np.ndarray, "seeds epochs parts"]:
    """Accuracy of training and test samples after each epoch, of runs that begin as the ordinary ones do.

    `categories`: the signs that derivatives are given, at the sites that are named; with `dropped`, derivatives of the
    other sign become zero instead. `turned`: the probability with which the sign of each derivative at a site is
    turned, anew at every step. `masks`: dropout masks a step.
    """
    frozen = {site: jnp.asarray(of) for site, of in categories.items()}
    states, accuracy = training.begin(model, dataset.train.blank, options.seeds), []
    common = (options.seeds, len(dataset.train), options.batch_size)
    for epoch in tqdm(range(options.epochs), desc=name, unit="epoch", disable=None):
        ids = training.orders(*common, epoch)
        states = _epoch(model, learning_rate, dropped, turned, masks, states, dataset.train, ids, frozen)
        accuracy.append([training.accuracies(model, states, part) for part in (dataset.train, dataset.test)])
    return np.moveaxis(np.asarray(accuracy), 2, 0)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _epoch(
    model: Layers,
    learning_rate: float,
    dropped: bool,
    turned: Turn,
    masks: int,
    states: TrainState,
    samples: Samples,
    ids: Int[Array, "seeds batches batch"],
    frozen: Mapping[str, Int[Array, "seeds samples neurons"]],
) -> TrainState:
    def one(state: TrainState, ids: Array, frozen: Mapping[str, Array]) -> TrainState:
        def edits(batch: Array, key: Array) -> dict[str, Edit]:
            edit = taps.agreeing if dropped else taps.frozen_signs
            found = {site: edit(of[batch]) for site, of in frozen.items()}
            for index, (site, share) in enumerate(turned):
                turn = jax.random.bernoulli(jax.random.fold_in(key, index), share, (len(batch), model.neurons))
                found[site] = taps.flipped(jnp.where(turn, -1, 1).astype(jnp.int8))
            return found

        return training.steps(model, state, samples, ids, learning_rate, edits, masks)

    return jax.vmap(one)(states, ids, frozen)


def replicas(
    model: Layers,
    sites: Mapping[str, taps.Site],
    moments: Mapping[str, TrainState],
    samples: Samples,
    watched: Samples,
    learning_rate: float,
    batch: int,
    count: int = 8,
) -> dict[str, dict[str, dict[str, Float[np.ndarray, " seeds"]]]]:
    """{moment: {source of noise: {site: mean product of the signs of two replicas}}}: 1 is no noise, 0 nothing else.

    Replicas are the same derivatives at one step, under another dropout mask; after one more step on another
    mini-batch; and of the image shifted by up to a pixel each way. Products are over pairs of replicas, samples and
    neurons, both nonzero.
    """

    def dropout(state: TrainState, key: Array, samples: Samples, watched: Samples) -> dict[str, Array]:
        kwargs = {"train": True, "rngs": {"dropout": key}, "mutable": list(state.statistics)}
        return training.gradients(model, sites, state.variables, watched, **kwargs)

    def mini_batch(state: TrainState, key: Array, samples: Samples, watched: Samples) -> dict[str, Array]:
        ids = jax.random.randint(key, (1, batch), 0, len(samples))
        moved = training.steps(model, state.replace(key=key), samples, ids, learning_rate)
        return training.gradients(model, sites, moved.variables, watched)

    def shift(state: TrainState, key: Array, samples: Samples, watched: Samples) -> dict[str, Array]:
        by = jax.random.randint(key, (2,), 0, 3)
        padded = jnp.pad(watched.images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = watched.images.shape[1:3]
        images = jax.lax.dynamic_slice(padded, (0, by[0], by[1], 0), (len(watched), height, width, padded.shape[-1]))
        return training.gradients(model, sites, state.variables, watched.replace(images=images))

    def agreement(signs: Array) -> Array:
        """Mean product over pairs of different replicas: ((sum of signs)^2 - nonzero) / (nonzero^2 - nonzero)."""
        nonzero = jnp.abs(signs).sum(0)
        return (signs.sum(0) ** 2 - nonzero).sum() / (nonzero**2 - nonzero).sum()

    noise = {"dropout mask": dropout, "mini-batch": mini_batch, "shift of the image": shift}
    if not model.dropout:
        noise.pop("dropout mask")

    @partial(jax.jit, static_argnames="of")
    def found(of: str, states: TrainState, keys: Array, samples: Samples, watched: Samples) -> dict[str, Array]:
        def one(state: TrainState) -> dict[str, Array]:
            signs = jax.lax.map(lambda key: jax.tree.map(jnp.sign, noise[of](state, key, samples, watched)), keys)
            return jax.tree.map(agreement, signs)

        return jax.lax.map(one, states)

    keys = jax.random.split(random_stream(0, "replicas"), count)
    return {
        moment: {of: jax.device_get(found(of, states, keys, samples, watched)) for of in noise}
        for moment, states in moments.items()
    }
