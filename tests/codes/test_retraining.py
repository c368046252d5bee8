"""Retraining what follows a cut, on the bits that windows let through."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import small_mlp
from neuron_mech import taps
from neuron_mech.codes import retraining, sources, windowing
from neuron_mech.errors import InputError, RunError
from neuron_mech.runs import planning
from small_mlp import CONFIG, values_at


@pytest.fixture(scope="module")
def studied(digits):
    return small_mlp.studied(digits)


def test_a_cut_knows_what_follows_the_site(studied, digits):
    study, variables = studied
    one = digits.train.rows(jnp.arange(1))
    for site, above in (("dense1", {"affine2", "logits"}), ("dense2", {"logits"})):
        cut = retraining.cut(CONFIG, study.model, variables, one, study.sites[site])
        assert set(retraining.initial(cut).params) == above
    stock = taps.sites(study.model, variables, one.inputs)["affine2"]
    assert set(retraining.initial(retraining.cut(CONFIG, study.model, variables, one, stock)).params) == {"logits"}
    with pytest.raises(InputError, match="is no site"):
        taps.below(study.model, variables, one.inputs, "dense9")


def windows_at(study, variables, digits, site, centers=(5, 45)):
    source = sources.network(study.model, variables, study.sites)
    windows = windowing.at_centers(values_at(study, variables, digits, site), centers, 10.0)
    look = windowing.binarizer(source, site)
    return look(windows, digits.train), look(windows, digits.test), windows, source


def test_bits_are_what_the_windows_let_through(studied, digits):
    study, variables = studied
    train, _, windows, source = windows_at(study, variables, digits, "dense1")
    assert train.bits.shape == (2, 1437, 4)  # 32 neurons
    values = np.asarray(source(digits.train.inputs)["dense1"])
    inside = (values >= np.asarray(windows.lower[1])) & (values < np.asarray(windows.upper[1]))
    unpacked = np.asarray(windowing.unpack(train.bits[1], (32,)))
    assert (unpacked != inside).mean() < 1e-4  # chunks of other sizes may round an edge differently


@pytest.mark.parametrize(
    ("activation", "replaces", "passed_on"),
    [
        ("relu", "pre_activation", (0.0, 1.0)),
        ("sigmoid", "pre_activation", (0.5, 1 / (1 + np.exp(-1)))),
        ("sigmoid", "activation", (0.0, 1.0)),
    ],
)
def test_retraining_is_gradient_descent_on_the_bits_and_nothing_before_the_site_moves(
    studied, digits, activation, replaces, passed_on
):
    study, variables = studied
    before = jax.tree.map(np.array, variables)
    train, test, _, _ = windows_at(study, variables, digits, "dense2", (5,))
    network = replace(CONFIG.model, dropout=0.0, activation=activation)
    config = replace(CONFIG, model=network, train=replace(CONFIG.train, epochs=2))
    plain, _ = planning.study(config, digits)
    cut = retraining.cut(
        config, plain.model, variables, digits.train.rows(jnp.arange(1)), plain.sites["dense2"], replaces
    )
    retrain = retraining.Retraining(cut)
    found = retrain(train, test)
    # The same by hand: softmax regression on zeros and ones, from the same start in the same order.
    start = retraining.initial(cut).params["logits"]
    kernel, bias = (np.asarray(start[k], np.float64) for k in ("kernel", "bias"))
    zero, one = passed_on
    bits, labels = np.asarray(windowing.unpack(train.bits[0], (32,)), np.float64), np.asarray(train.labels)
    bits = zero + (one - zero) * bits
    for epoch in range(2):
        full, rest = retrain.order(len(labels), epoch)
        for ids in [*full, rest]:
            logits = bits[ids] @ kernel + bias
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            slope = (p - np.eye(10)[labels[ids]]) / len(ids)
            kernel, bias = kernel - 0.1 * bits[ids].T @ slope, bias - 0.1 * slope.sum(0)
    seen = zero + (one - zero) * np.asarray(windowing.unpack(test.bits[0], (32,)))
    by_hand = ((seen @ kernel + bias).argmax(1) == np.asarray(test.labels)).mean()
    assert found[0] == pytest.approx(by_hand, abs=2 / 360)
    for key, value in traverse_util.flatten_dict(before).items():
        np.testing.assert_array_equal(value, traverse_util.flatten_dict(variables)[key])


def test_what_precedes_the_site_is_not_run(studied, digits):
    """In the compiled epoch there is no product with the first layer's kernel, 64 x 32."""
    study, variables = studied
    train, _, _, _ = windows_at(study, variables, digits, "dense1", (5,))
    cut = retraining.cut(CONFIG, study.model, variables, digits.train.rows(jnp.arange(1)), study.sites["dense1"])
    ids, rest = (jnp.asarray(part) for part in retraining.Retraining(cut).order(1437, 0))

    def one_epoch(bits, labels):
        return retraining.epoch(cut, retraining.initial(cut), retraining.Binarized(bits, labels), ids, rest)[1]

    compiled = jax.jit(one_epoch).lower(train.bits[0], train.labels).compile().as_text()
    assert "[32,32]" in compiled  # the second layer's kernel
    assert "[64,32]" not in compiled
    assert "8,8,1]" not in compiled  # nor an image


def test_all_windows_look_at_one_pass(studied, digits):
    """Ten windows at once: one product before them, without an axis for the windows."""
    study, variables = studied
    source = sources.network(study.model, variables, study.sites)
    windows = windowing.at_centers(
        np.random.default_rng(0).normal(size=(99, 32)).astype(np.float32), range(5, 96, 10), 10
    )

    def look(lower, upper, inputs):
        values = source(inputs)["dense1"]
        return jax.vmap(lambda a, b: windowing.pack(windowing.Window(a, b)(values)))(lower, upper)

    text = jax.jit(look).lower(windows.lower, windows.upper, digits.test.inputs[:50]).as_text()
    products = [line.split("->")[1] for line in text.splitlines() if "dot_general" in line]
    assert all("10x" not in shape for shape in products)
    assert len(products) <= 3  # the network's own; XLA drops those after the site


def test_windows_together_give_the_numbers_of_windows_apart(studied, digits):
    study, variables = studied
    train, test, _, _ = windows_at(study, variables, digits, "dense1", (5, 45))
    cut = retraining.cut(CONFIG, study.model, variables, digits.train.rows(jnp.arange(1)), study.sites["dense1"])
    retrain = retraining.Retraining(cut)
    together = retrain(train, test)
    for index in range(2):
        one = lambda part, i=index: part.replace(bits=part.bits[i : i + 1])  # noqa: E731
        assert retrain(one(train), one(test))[0] == pytest.approx(together[index], abs=2 / 360)


def test_retraining_that_diverges_is_said(studied, digits):
    study, variables = studied
    train, test, _, _ = windows_at(study, variables, digits, "dense1", (45,))
    config = replace(CONFIG, train=replace(CONFIG.train, learning_rate=1e30))
    cut = retraining.cut(config, study.model, variables, digits.train.rows(jnp.arange(1)), study.sites["dense1"])
    with pytest.raises(RunError, match=r"retraining above dense1: the loss is .* with train.learning_rate 1e\+30"):
        retraining.Retraining(cut)(train, test)
