"""The early layers' experiment: the null, categories of arms, replicas, the network, and the instrument itself."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.early_layers import interventions, measurement
from experiments.early_layers.measurement import EarlyLayers
from experiments.early_layers.recording import displaced, ordinary
from experiments.open_questions import training
from experiments.open_questions.network import Layers, RunningNorm
from neuron_mech import taps
from neuron_mech.config import Data
from neuron_mech.training import datasets


@pytest.fixture(scope="module")
def few():
    return datasets.load(Data("digits", train_images=300))


OPTIONS = EarlyLayers(seeds=2, epochs=4, every=3, neurons=24, depth=2, dropout=0.0)


@pytest.fixture(scope="module")
def recorded(few):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return ordinary(Layers(depth=2, neurons=24, dropout=0.0), few, OPTIONS, 0.1, "ordinary", categories=True)


def test_equal_displacement_moves_as_far_and_elsewhere():
    rng = np.random.default_rng(0)
    start = {"a": {"kernel": jnp.asarray(rng.normal(size=(6, 5))), "bias": jnp.zeros(5)}}
    now = {"a": {"kernel": start["a"]["kernel"] + rng.normal(size=(6, 5)), "bias": jnp.arange(5.0)}}
    null, same = (displaced(start, now, jax.random.key(k)) for k in (0, 0))
    moved, true = (np.asarray(of["a"]["kernel"] - start["a"]["kernel"]) for of in (null, now))
    np.testing.assert_allclose(np.sort(moved.ravel()), np.sort(true.ravel()), rtol=1e-5, atol=1e-6)
    assert not np.allclose(moved, true, atol=0.1)
    np.testing.assert_array_equal(null["a"]["bias"], now["a"]["bias"])
    np.testing.assert_array_equal(null["a"]["kernel"], same["a"]["kernel"])


def test_categories_and_traces_are_those_of_a_slow_loop(few, recorded, lenient):
    model, samples = Layers(depth=2, neurons=24, dropout=0.0), few.train
    states = training.begin(model, samples.blank, 2)
    seed = jax.tree.map(lambda leaf: leaf[1], states)
    sites = {
        name: at for name, at in taps.sites(model, seed.variables, samples.inputs[:1]).items() if at.kind == "Neurons"
    }
    series = []
    for ids in training.stretches(2, 300, 32, 4, 3):
        series.append(jax.tree.map(np.sign, jax.device_get(training.gradients(model, sites, seed.variables, samples))))
        seed = training.steps(model, seed, samples, ids[1], 0.1)
    for site in sites:
        signs = np.stack([of[site] for of in series])
        for moment, last in (("whole run", len(signs)), ("first epoch", 3), ("first recording", 1)):
            expected = np.sign(signs[:last].sum(0))
            agree = (recorded.categories[moment][site][1] == expected).mean()
            assert agree > 0.999, "sums in another order turn a sign near zero"
        rows = np.sort(np.random.default_rng(0).permutation(300)[:256])
        at = np.zeros((256, 24), int)
        for t in range(1, len(signs)):
            now, before = signs[t, rows], signs[t - 1, rows]
            at[now * before < 0] = t
        settled = (signs[:, rows] != 0).all(0)
        assert (recorded.flips["derivative"][site].at[1] == at)[settled].mean() > 0.999
        assert recorded.traces["derivative"][site].shape == (2, len(signs), 16 * 256)


def test_arms_are_what_they_say(recorded, few):
    labels = np.asarray(few.train.labels)
    whole = recorded.categories["whole run"]["dense1"]
    arms = {arm: interventions.frozen_to(arm, recorded.categories, labels)["dense1"] for arm in interventions.FROZEN}
    np.testing.assert_array_equal(arms["own"], whole)
    np.testing.assert_array_equal(arms["another seed"], whole[::-1])
    np.testing.assert_array_equal(np.sort(arms["own, shuffled"], 1), np.sort(whole, 1))
    assert not np.array_equal(arms["own, shuffled"], whole)
    first = recorded.categories["first recording"]["dense1"]
    for label in range(10):
        of = arms["class at start"][:, labels == label]
        assert (of == of[:, :1]).all()
        for seed in range(2):
            votes = [np.sign(first[seed, labels == label, j].astype(int).sum()) for j in range(24)]
            np.testing.assert_array_equal(of[seed, 0], votes)


def test_own_signs_train_and_others_do_not(few, recorded):
    """The instrument: with the signs of its own run a network learns, with another seed's or another sample's not."""
    model, options = Layers(depth=2, neurons=24, dropout=0.0), EarlyLayers(seeds=2, epochs=12, neurons=24, depth=2)
    longer = EarlyLayers(seeds=2, epochs=12, every=3, neurons=24, depth=2, dropout=0.0)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        usual = ordinary(model, few, longer, 0.1, "ordinary", categories=True)
        final = {}
        for arm in ("own", "another seed", "own, shuffled"):
            chosen = interventions.frozen_to(arm, usual.categories, np.asarray(few.train.labels))
            final[arm] = interventions.train(model, few, options, 0.1, arm, chosen)[:, -1, 0]
        nothing = {site: np.zeros_like(of) for site, of in usual.categories["whole run"].items()}
        plain = interventions.train(model, few, options, 0.1, "zeros", nothing)[:, -1, 0]
    np.testing.assert_allclose(plain, usual.accuracy[:, -1, 0], atol=0.02)
    assert final["own"].min() > 0.6
    assert max(final["another seed"].max(), final["own, shuffled"].max()) < 0.45


def test_replicas_agree_where_nothing_differs_and_are_brute_forces_mean(few, recorded, lenient):
    model, samples = Layers(depth=2, neurons=24, dropout=0.5), few.train
    states = training.begin(model, samples.blank, 2)
    one = jax.tree.map(lambda leaf: leaf[0], states.variables)
    sites = {name: at for name, at in taps.sites(model, one, samples.inputs[:1]).items() if at.kind == "Neurons"}
    watched = samples.rows(np.arange(20))
    found = interventions.replicas(model, sites, {"end": states}, samples, watched, 1e-30, 8, count=3)["end"]
    assert set(found) == {"dropout mask", "mini-batch", "shift of the image"}
    np.testing.assert_allclose(found["mini-batch"]["dense1"], 1, err_msg="steps of no length move nothing")
    keys = jax.random.split(interventions.random_stream(0, "replicas"), 3)
    for site in sites:
        signs = []
        for key in keys:
            kwargs = {"train": True, "rngs": {"dropout": key}, "mutable": []}
            signs.append(np.sign(training.gradients(model, sites, one, watched, **kwargs)[site]))
        products = [a * b for i, a in enumerate(signs) for j, b in enumerate(signs) if i != j]
        nonzero = sum(np.abs(of).sum() for of in products)
        expected = sum(of.sum() for of in products) / nonzero
        np.testing.assert_allclose(found["dropout mask"][site][0], expected, rtol=1e-5)


def test_running_norm_is_the_same_for_a_sample_alone(lenient):
    norm, values = RunningNorm(), jnp.asarray(np.random.default_rng(0).normal(2, 3, (40, 3)), jnp.float32)
    state = norm.init(jax.random.key(0), values, False)
    out, new = norm.apply(state, values, True, mutable=["batch_stats"])
    mean, variance = 0.1 * values.mean(0), 0.9 + 0.1 * values.var(0)
    np.testing.assert_allclose(out, (values - mean) / np.sqrt(variance + 1e-3), rtol=1e-5, atol=1e-5)
    after = {**state, **new}
    together = norm.apply(after, values, False)
    np.testing.assert_allclose(norm.apply(after, values[:1], False), together[:1], rtol=1e-6)


def test_a_network_of_the_grid_that_diverged_has_no_measures(few, lenient):
    options = replace(OPTIONS, learning_rate=1e4)
    found = measurement.of_factor("linear", few, options)
    assert (found.factor_accuracy == 0).all()
    assert all(found[name].isnull().all() for name in found.data_vars if name != "factor_accuracy")
    found = measurement.of_factor("linear", few, replace(options, learning_rate=0.01))
    assert all(found[name].notnull().all() for name in found.data_vars)
