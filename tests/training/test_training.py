"""The training step against gradient descent by hand, evaluation, and the order of an epoch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles
from neuron_mech import taps, training
from neuron_mech.config import PRESETS, Model
from neuron_mech.training import models

CONFIG = replace(PRESETS["digits"], model=Model(width=1 / 16, dropout=0.0))


@pytest.fixture
def start(digits):
    model = models.build(CONFIG.model, digits.classes)
    return model, training.optimizer(CONFIG, 1437), training.init(CONFIG, model, digits.train.rows(jnp.arange(1)))


def sites_of(model, state, samples):
    return taps.select(taps.sites(model, state.variables, samples.inputs), ("all",))


def test_one_step_is_gradient_descent_on_the_mean_cross_entropy(start, digits):
    model, optimizer, state = start
    batch = digits.train.rows(jnp.arange(8))
    after, loss, _ = training.train_step(model, optimizer, state, batch, {})
    oracle = oracles.MLP(state.params, "relu")
    losses, gradient = [], np.zeros((32, 10))
    for x, y in zip(np.asarray(batch.inputs), np.asarray(batch.labels), strict=True):
        (_, z2), logits = oracle.forward(x)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        losses.append(-np.log(p[y]))
        gradient += np.outer(np.maximum(z2, 0), p - np.eye(10)[y]) / 8
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    step = np.asarray(after.params["logits"]["kernel"] - state.params["logits"]["kernel"])
    np.testing.assert_allclose(step, -0.1 * gradient, rtol=1e-3, atol=1e-6)
    assert int(after.step) == 1


def test_activation_gradients_beside_the_step_are_each_samples_own_and_change_nothing(start, digits):
    model, optimizer, state = start
    batch = digits.train.rows(jnp.arange(8))
    sites = sites_of(model, state, batch)
    plain, _, none = training.train_step(model, optimizer, state, batch, {})
    after, _, found = training.train_step(model, optimizer, state, batch, taps.zeros(sites, 8))
    assert none == {}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), after.params, plain.params)
    oracle = oracles.MLP(state.params, "relu")
    for i in range(8):
        x, y = np.asarray(batch.inputs[i]), int(batch.labels[i])
        exact = oracle.margin_gradients(x, y)["activation"]
        weight = 1 / (1 + np.exp(-oracles.margin(oracle.forward(x)[1], y))) / 8  # of the batch's mean
        for site in sites:
            np.testing.assert_allclose(found[site][i], weight * exact[site], rtol=1e-3, atol=1e-7)


def test_dropout_is_a_function_of_seed_and_step_alone(digits):
    config = replace(CONFIG, model=replace(CONFIG.model, dropout=0.5))
    model = models.build(config.model, 10)
    state = training.init(config, model, digits.train.rows(jnp.arange(1)))
    batch = digits.train.rows(jnp.arange(8))
    optimizer = training.optimizer(config, 1437)
    _, one, _ = training.train_step(model, optimizer, state, batch, {})
    _, again, _ = training.train_step(model, optimizer, state, batch, {})
    _, later, _ = training.train_step(model, optimizer, state.replace(step=state.step + 1), batch, {})
    assert float(one) == float(again) != float(later)


def test_initialisation_is_keras_s(start):
    _, _, state = start
    kernel = np.asarray(state.params["affine1"]["kernel"])
    limit = np.sqrt(6 / (64 + 32))
    assert np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)
    assert all((np.asarray(layer["bias"]) == 0).all() for layer in state.params.values())
    assert set(state.params) == {"affine1", "affine2", "logits"}
    assert state.statistics == {}


@pytest.mark.parametrize("chunk", [7, 50, 1000])
def test_accuracy_counts_every_sample_once(start, digits, chunk):
    model, _, state = start
    samples = digits.test.rows(jnp.arange(50))
    by_hand = (model.apply(state.variables, samples.inputs).argmax(-1) == samples.labels).mean()
    assert float(training.accuracy(model, state.variables, samples, chunk)) == pytest.approx(float(by_hand))


def test_an_epoch_visits_every_sample_once_in_its_own_order():
    one, other = (training.epoch_order(CONFIG, 100, epoch) for epoch in (0, 1))
    assert sorted(one) == sorted(other) == list(range(100))
    assert (one != other).any()
    np.testing.assert_array_equal(one, training.epoch_order(CONFIG, 100, 0))
