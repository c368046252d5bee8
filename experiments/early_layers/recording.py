"""Ordinary training, recorded: categories of all samples, whole traces of some pairs, last flips, and the null N1."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct, traverse_util
from jaxtyping import Array, Int, PyTree
from tqdm import tqdm

from experiments.open_questions import training
from experiments.open_questions.network import Layers
from experiments.open_questions.options import Options
from neuron_mech import taps
from neuron_mech.config import random_stream
from neuron_mech.recording import freezing
from neuron_mech.recording.freezing import LastFlip
from neuron_mech.training import TrainState
from neuron_mech.training.datasets import Dataset, Samples

WATCHED, PAIRS = 256, 4096
"""Samples whose signs are followed at all neurons; (sample, neuron) pairs of them whose whole series is kept."""

SOURCES = ("derivative", "gate", "null")
"""What is followed: the derivative's sign; the pre-activation's; and the derivative's under the null N1."""


class Recorded(NamedTuple):
    """What was recorded of all seeds; arrays of the host, by site."""

    states: TrainState
    """At the end of training."""
    early: TrainState
    """After a quarter of it."""
    traces: dict[str, dict[str, Int[np.ndarray, "seeds recordings pairs"]]]
    """Of the derivative and of the null."""
    flips: dict[str, dict[str, LastFlip]]
    """By source."""
    categories: dict[str, dict[str, Int[np.ndarray, "seeds samples neurons"]]]
    """Signs of the sums of signs: of the whole run, of its first epoch, and of the first recording."""
    accuracy: np.ndarray
    """Of training and test samples after each epoch: (seeds, epochs, 2)."""


class Carry(struct.PyTreeNode):
    """What one seed's recordings add up to."""

    lead: dict[str, Array]
    flips: dict[str, dict[str, LastFlip]]


def displaced(initial: PyTree, params: PyTree, key: Array) -> PyTree:
    """The null N1, equal displacement: W(0) + P[W(t) - W(0)], P a fixed random permutation of each kernel's entries.

    The weights have moved as far as in training, and to nowhere in particular. Other parameters are as they are.
    """
    flat, start = traverse_util.flatten_dict(params), traverse_util.flatten_dict(initial)
    found = {}
    for index, (path, weights) in enumerate(sorted(flat.items())):
        if path[-1] == "kernel":
            moved = jax.random.permutation(jax.random.fold_in(key, index), (weights - start[path]).ravel())
            weights = start[path] + moved.reshape(weights.shape)
        found[path] = weights
    return traverse_util.unflatten_dict(found)


def ordinary(
    model: Layers, dataset: Dataset[Samples], options: Options, learning_rate: float, name: str, categories: bool
) -> Recorded:
    """Train all seeds by ordinary backpropagation, with a recording before every `options.every` steps.

    Categories are counted of all training samples where `categories` asks for them. What follows a seed is that of its
    number, whatever the network.
    """
    seeds, samples = options.seeds, dataset.train
    states = training.begin(model, samples.blank, seeds)
    initial = states.params
    one = jax.tree.map(lambda leaf: leaf[0], states.variables)
    sites = {site: of for site, of in taps.sites(model, one, samples.blank.inputs).items() if of.kind == "Neurons"}
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(samples))[:WATCHED])
    each = -(-PAIRS // len(rows))
    chosen = np.stack([rng.permutation(model.neurons)[: min(each, model.neurons)] for _ in rows])
    pairs = (jnp.asarray(np.repeat(np.arange(len(rows)), chosen.shape[1])), jnp.asarray(chosen.ravel()))
    ids = list(training.stretches(seeds, len(samples), options.batch_size, options.epochs, options.every))
    keys = jnp.stack([random_stream(seed, "null") for seed in range(seeds)])
    step = jax.jit(jax.vmap(partial(training.steps, model, learning_rate=learning_rate), in_axes=(0, None, 0)))

    @partial(jax.jit, donate_argnums=0)
    def recording(carry: Carry, states: TrainState, initial: PyTree, number: Array, samples: Samples, watched: Samples):
        """One recording of every seed: (what it adds up to, {source: {site: signs of the pairs}})."""

        def one(of: tuple[Carry, TrainState, PyTree, Array]) -> tuple[Carry, dict[str, dict[str, Array]]]:
            carry, state, initial, key = of
            variables = state.variables
            moved = {**variables, "params": displaced(initial, state.params, key)}
            seen = {
                "derivative": training.gradients(model, sites, variables, watched),
                "gate": taps.read(model, variables, watched.inputs, tuple(sites))[1],
                "null": training.gradients(model, sites, moved, watched),
            }
            flips = {
                source: {site: freezing.update(carry.flips[source][site], of, number) for site, of in by_site.items()}
                for source, by_site in seen.items()
            }
            traces = {
                source: {site: jnp.sign(values[pairs]).astype(jnp.int8) for site, values in seen[source].items()}
                for source in ("derivative", "null")
            }
            lead = carry.lead
            if categories:
                every = training.gradients(model, sites, variables, samples)
                lead = {site: lead[site] + jnp.sign(values).astype(jnp.int16) for site, values in every.items()}
            return Carry(lead, flips), traces

        return jax.lax.map(one, (carry, states, initial, keys))

    carry = Carry(
        {site: jnp.zeros((seeds, len(samples) if categories else 0, model.neurons), jnp.int16) for site in sites},
        {
            source: {site: freezing.begin((seeds, len(rows), model.neurons), len(ids)) for site in sites}
            for source in SOURCES
        },
    )
    watched, traces, accuracy, early = samples.rows(rows), [], [], states
    leads: dict[str, dict[str, np.ndarray]] = {}
    per_epoch = len(ids) // options.epochs
    for number, stretch in enumerate(tqdm(ids, desc=name, unit="recording", disable=None)):
        carry, found = recording(carry, states, initial, jnp.asarray(number), samples, watched)
        traces.append(jax.device_get(found))
        leads |= {
            name: _signs(carry)
            for name, last in (("first recording", 1), ("first epoch", per_epoch))
            if number + 1 == last
        }
        if number == len(ids) // 4:
            early = states
        states = step(states, samples, stretch)
        if (number + 1) % per_epoch == 0:
            accuracy.append([training.accuracies(model, states, part) for part in (samples, dataset.test)])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves, 1), *traces)
    leads["whole run"] = _signs(carry)
    by_seed = np.moveaxis(np.asarray(accuracy), 2, 0)
    return Recorded(states, early, stacked, jax.device_get(carry.flips), leads, by_seed)


def _signs(carry: Carry) -> dict[str, np.ndarray]:
    return {site: np.sign(np.asarray(lead)).astype(np.int8) for site, lead in carry.lead.items()}
