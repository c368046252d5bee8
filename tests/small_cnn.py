"""The convolutional network, small, on a few digits: neurons, layers and samples enough for every case."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from neuron_mech.config import Config, Data, Model, Record, Train, Watch
from neuron_mech.runs import planning

LAYERS = [f"stage{stage}layer0" for stage in range(4)]
SMALL = Config(
    "digits",
    data=Data("digits", augment=True),
    model=Model(network="cnn", depth=1, dropout=None, width=1 / 32),
    train=Train(learning_rate=0.05, batch_size=16, epochs=2, drop_after=0.5),
    record=Record(
        every=2,
        samples=40,
        sites=("stage0layer0", "stage2layer0", "stage3layer0"),
        site_samples=("stage3layer0:40", "stage2layer0:25", "*:10"),
        chunk=12,
    ),
    watch=Watch(recordings=3, samples=30, wide_recordings=2, wide_samples=20, neurons=2),
)
"""One layer in a stage: neurons 2, 4, 8, 16; groups of 10, 15 and 15 samples, the chunks of none of them even."""


def few(digits):
    """Five full batches of 16 and one of 10."""
    return replace(digits, train=digits.train.rows(jnp.arange(90)), test=digits.test.rows(jnp.arange(60)))


def studied(data, config=SMALL):
    """(study, disturbed state)."""
    study, state = planning.study(config, data)
    return study, disturbed(state)


def disturbed(state):
    """A state whose statistics, scales and biases are nobody's defaults."""
    leaves, tree = jax.tree.flatten((state.params, state.statistics))
    draw = np.random.default_rng(5)
    leaves = [jnp.asarray(leaf + 0.2 * draw.random(leaf.shape, np.float32)) for leaf in jax.device_get(leaves)]
    params, statistics = jax.tree.unflatten(tree, leaves)
    return state.replace(params=params, statistics=statistics)


def lowered(function, *arguments):
    """`function` lowered by its arguments' leaves: types with checked shapes hold arrays alone."""
    leaves, tree = jax.tree.flatten(arguments)
    return jax.jit(lambda *leaves: function(*jax.tree.unflatten(tree, leaves))).lower(*leaves)
