"""What activation_functions.nc holds: every arm at its best learning rate, each computed once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from experiments.activation_functions.units import ARMS, Arm, Network
from experiments.open_questions import options as shared
from experiments.open_questions import training
from experiments.open_questions.options import Options, described
from neuron_mech import taps
from neuron_mech.codes import linear_probes, quantization, windowing
from neuron_mech.config import random_stream
from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import separating
from neuron_mech.taps.objectives import right
from neuron_mech.training import TrainState
from neuron_mech.training.datasets import Dataset, Samples


@dataclass(frozen=True)
class ActivationFunctions(Options):
    """Options of this experiment."""

    depth: int = 2
    """Hidden layers."""
    learning_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Of plain SGD; each arm has the one that is best on a fifth of the training images, held out."""
    validated: int = 2
    """Seeds that learning rates are chosen with."""
    probed: int = 1500
    """Training images, the first, that windows' linear probes and percentiles are taken from, at most."""
    penalty: float = 1e-2
    """Of those probes, on their squared weights."""


PRESETS = {
    "digits": ActivationFunctions(epochs=20),
    "mnist": ActivationFunctions(data="mnist", images=10_000, epochs=20, batch_size=100),
}

RANKS = tuple(range(10, 100, 10))
"""Percentile ranks at which pre-activations are quantized to two values."""
CENTERS = (5, 25, 45, 55, 75, 95)
"""Centers of the windows, each ten ranks wide."""
NOISE = (0.1, 0.2, 0.4)
"""Standard deviations of the noise that is added to images, whose pixels lie in 0 to 1."""


def measure(options: ActivationFunctions, dataset: Dataset[Samples], directory: Path) -> xr.Dataset:
    """All arms, put together."""
    parts = []
    for arm in tqdm(ARMS, desc="activation functions", unit="arm", disable=None):
        parts.append(shared.kept(directory, arm.name, of_arm, arm, dataset, options))
    found = xr.concat(parts, xr.Variable("arm", [arm.name for arm in ARMS]))
    sizes = {"classes": dataset.classes, "test_samples": len(dataset.test)}
    return found.assign_attrs({**shared.numbers(options), **sizes})


def of_arm(arm: Arm, dataset: Dataset[Samples], options: ActivationFunctions) -> xr.Dataset:
    """One arm: its learning rate, and all that is measured of its five seeds."""
    learning_rate, validation = chosen(arm, dataset.train, options)
    common = (len(dataset.train), options.batch_size, options.epochs)
    model = network(arm, dataset.classes, common[0], options)
    states = training.begin(model, dataset.train.blank, options.seeds)
    one = jax.tree.map(lambda leaf: leaf[0], states.variables)
    sites = {
        name: at for name, at in taps.sites(model, one, dataset.train.blank.inputs).items() if at.kind == "Neurons"
    }
    step = jax.jit(jax.vmap(partial(training.steps, model, learning_rate=learning_rate), in_axes=(0, None, 0)))
    few = dataset.train.rows(np.arange(min(options.probed, len(dataset.train))))

    @jax.jit
    def separated(states: TrainState, few: Samples) -> dict[str, tuple[Array, Array]]:
        def one(variables: Any) -> dict[str, tuple[Array, Array]]:
            derivatives = training.gradients(model, sites, variables, few)
            values = taps.read(model, variables, few.inputs, tuple(sites))[1]
            found = {
                site: separating.separation(separating.standardised(values[site]), derivatives[site]) for site in sites
            }
            return {site: (of.mean(), (of > 0).mean(dtype=jnp.float32)) for site, of in found.items()}

        return jax.lax.map(one, states.variables)

    accuracy, separation = [], [jax.device_get(separated(states, few))]
    for epoch in range(options.epochs):
        states = step(states, dataset.train, training.orders(options.seeds, *common[:2], epoch))
        accuracy.append([training.accuracies(model, states, part) for part in (dataset.train, dataset.test)])
        separation.append(jax.device_get(separated(states, few)))
    by_site = np.array([[at[site] for site in sites] for at in separation])  # (times, sites, 2, seeds)
    codes = [of_codes(model, states, seed, tuple(sites), few, dataset.test, options) for seed in range(options.seeds)]
    noisy = np.stack([robustness(model, states, dataset.test, deviation) for deviation in NOISE], 1)
    shown = "share of samples that are right"
    found = described(
        learning_rate=((), learning_rate, "of plain SGD, chosen on held-out samples"),
        validation=(("seed_validated", "rate"), validation, "held-out accuracy by learning rate"),
        accuracy=(("seed", "epoch", "part"), np.moveaxis(np.asarray(accuracy), 2, 0), shown),
        separation=(("site", "seed", "time"), by_site[:, :, 0].transpose(1, 2, 0), "mean of c clip(u, -3, 3)"),
        on_side=(("site", "seed", "time"), by_site[:, :, 1].transpose(1, 2, 0), "share of pairs on their side"),
        window_accuracy=(("seed", "window_center"), np.stack([of[0] for of in codes]), "of a probe, last hidden layer"),
        quantized=(("seed", "site", "percentile_rank"), np.stack([of[1] for of in codes]), f"{shown}, two values"),
        noisy=(("seed", "noise"), noisy, f"{shown}, with noise on the images"),
    )
    coords = {
        "rate": list(options.learning_rates),
        "site": list(sites),
        "part": ["train", "test"],
        "window_center": list(CENTERS),
        "percentile_rank": list(RANKS),
        "noise": list(NOISE),
    }
    return xr.Dataset(found, coords)


def network(arm: Arm, classes: int, samples: int, options: ActivationFunctions) -> Network:
    """The arm's network, which knows how many steps it will be trained for."""
    return Network(arm, options.depth, options.neurons, samples // options.batch_size * options.epochs, classes)


def chosen(arm: Arm, samples: Samples, options: ActivationFunctions) -> tuple[float, Float[np.ndarray, "seeds rates"]]:
    """(learning rate with the best mean accuracy on held-out samples, all accuracies); the first of equal ones."""
    order = np.random.default_rng(0).permutation(len(samples))
    held, used = samples.rows(order[: len(samples) // 5]), samples.rows(order[len(samples) // 5 :])
    seeds, rates = options.validated, jnp.asarray(options.learning_rates, jnp.float32)
    model = network(arm, 1 + int(samples.labels.max()), len(used), options)
    states = training.begin(model, samples.blank, seeds)
    states = jax.tree.map(lambda leaf: jnp.repeat(leaf, len(rates), 0), states)
    run = jax.jit(jax.vmap(partial(training.steps, model), in_axes=(0, None, 0, 0)))
    for epoch in range(options.epochs):
        ids = np.repeat(training.orders(seeds, len(used), options.batch_size, epoch), len(rates), 0)
        states = run(states, used, ids, jnp.tile(rates, seeds))
    accuracy = np.asarray(training.accuracies(model, states, held)).reshape(seeds, len(rates))
    return options.learning_rates[int(np.argmax(accuracy.mean(0)))], accuracy


def of_codes(
    model: Network,
    states: TrainState,
    seed: int,
    sites: tuple[str, ...],
    few: Samples,
    test: Samples,
    options: ActivationFunctions,
) -> tuple[np.ndarray, np.ndarray]:
    """Of one seed: (accuracy of a probe on each window of the last site, accuracy quantized at each rank by site)."""
    variables = jax.tree.map(lambda leaf: leaf[seed], states.variables)
    values, tested = (_read(model, variables, part, sites) for part in (few, test))
    windows = windowing.at_centers(values[sites[-1]], CENTERS, 10.0)
    probed = []
    for index in range(len(CENTERS)):
        window = jax.tree.map(lambda edges, index=index: edges[index], windows)
        codes = [np.asarray(window(of[sites[-1]]), np.uint8) for of in (values, tested)]
        probe = linear_probes.fit(codes[0], np.asarray(few.labels), model.classes, options.penalty)
        probed.append(linear_probes.accuracy(probe, codes[1], np.asarray(test.labels)))
    quantized = [_quantized(model, site, variables, quantization.at_ranks(values[site], RANKS), test) for site in sites]
    return np.array(probed), np.array(quantized)


@partial(jax.jit, static_argnames=("model", "sites"))
def _read(model: Network, variables: Any, samples: Samples, sites: tuple[str, ...]) -> dict[str, Array]:
    return taps.read(model, variables, samples.inputs, sites)[1]


@partial(jax.jit, static_argnames=("model", "site"))
def _quantized(model: Network, site: str, variables: Any, codes: quantization.TwoValues, samples: Samples) -> Array:
    def one(code: quantization.TwoValues) -> Array:
        logits = taps.edited(model, pre={site: code})(variables, samples.inputs)
        return right(logits, samples.labels).mean(dtype=jnp.float32)

    return jax.lax.map(one, codes)


def robustness(model: Network, states: TrainState, samples: Samples, deviation: float) -> Float[np.ndarray, " seeds"]:
    """Accuracy of each seed on images with Gaussian noise, the same for all."""
    inputs = samples.inputs
    noise = deviation * jax.random.normal(random_stream(0, "noise on images"), inputs.shape)
    return np.asarray(_right(model, states, inputs + noise, samples.labels))


@partial(jax.jit, static_argnames="model")
def _right(model: Network, states: TrainState, inputs: Array, labels: Array) -> Array:
    def one(variables: Any) -> Array:
        logits: Any = model.apply(variables, inputs)
        return right(logits, labels).mean(dtype=jnp.float32)

    return jax.lax.map(one, states.variables)
