"""Edits of what flows back through a site."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drawn import integers, normal, started
from neuron_mech import taps
from neuron_mech.taps import SiteError
from neuron_mech.taps.objectives import margin
from neuron_mech.training.models import MLP


@pytest.fixture
def network(lenient):
    model = MLP(depth=2, neurons=5, dropout=0.0, classes=3)
    inputs = normal(0, 7, 4)
    labels = jnp.asarray(np.arange(7, dtype=np.int32) % 3)
    return model, dict(started(model, 1, inputs)), inputs, labels


def loss_of(model, inputs, labels, edits):
    run = taps.edited(model, post=edits)
    return lambda params: margin(run({"params": params}, inputs), labels).sum()


def by_hand(params, inputs, labels, changed):
    """Kernels' gradients in float64, written out; `changed` acts on the derivatives of activations."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = np.asarray(inputs, np.float64)
    z1 = x @ p["affine1"]["kernel"] + p["affine1"]["bias"]
    a1 = np.maximum(z1, 0)
    z2 = a1 @ p["affine2"]["kernel"] + p["affine2"]["bias"]
    a2 = np.maximum(z2, 0)
    logits = a2 @ p["logits"]["kernel"] + p["logits"]["bias"]
    right = np.eye(3)[np.asarray(labels)]
    wrong = np.exp(logits) * (1 - right)
    d_logits = wrong / wrong.sum(1, keepdims=True) - right
    g2 = changed("dense2", d_logits @ p["logits"]["kernel"].T)
    d2 = g2 * (z2 > 0)
    g1 = changed("dense1", d2 @ p["affine2"]["kernel"].T)
    d1 = g1 * (z1 > 0)
    return {"affine1": x.T @ d1, "affine2": a1.T @ d2, "logits": a2.T @ d_logits}


CHANGES = {
    "frozen_signs": lambda g, c: np.where(c == 0, g, np.abs(g) * c),
    "agreeing": lambda g, c: np.where((c != 0) & (np.sign(g) == -c), 0, g),
    "flipped": lambda g, c: g * c,
}


@pytest.mark.parametrize("name", CHANGES)
def test_all_layers_below_learn_from_what_is_changed(network, name):
    model, variables, inputs, labels = network
    rng = np.random.default_rng(0)
    given = {site: rng.integers(-1, 2, (7, 5)).astype(np.int8) for site in ("dense1", "dense2")}
    edits = {site: getattr(taps, name)(jnp.asarray(of)) for site, of in given.items()}
    found = jax.jit(jax.grad(loss_of(model, inputs, labels, edits)))(variables["params"])
    expected = by_hand(variables["params"], inputs, labels, lambda site, g: CHANGES[name](g, given[site]))
    for layer, kernel in expected.items():
        np.testing.assert_allclose(found[layer]["kernel"], kernel, rtol=2e-4, atol=1e-5)
    untouched = by_hand(variables["params"], inputs, labels, lambda site, g: g)
    assert not np.allclose(expected["affine1"], untouched["affine1"], atol=1e-3)


def test_forward_nothing_changes_and_zeros_are_ordinary_backpropagation(network):
    model, variables, inputs, labels = network
    edits = {"dense1": taps.frozen_signs(jnp.zeros((7, 5), jnp.int8))}
    plain, same = (jax.jit(jax.value_and_grad(loss_of(model, inputs, labels, of))) for of in ({}, edits))
    for one, other in zip(*map(jax.tree.leaves, (plain(variables["params"]), same(variables["params"]))), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_true_signs_change_nothing(network):
    model, variables, inputs, labels = network
    sites = taps.sites(model, variables, inputs)
    sites = {name: sites[name] for name in ("dense1", "dense2")}

    @jax.jit
    def gradients(variables):
        zeros = taps.zeros(sites, 7)
        return taps.activation_gradients(model, variables, inputs, labels, zeros, {"margin": margin})["margin"]

    own = gradients(variables)
    edits = {site: taps.frozen_signs(jnp.asarray(np.sign(g).astype(np.int8))) for site, g in own.items()}
    plain, frozen = (jax.jit(jax.grad(loss_of(model, inputs, labels, of)))(variables["params"]) for of in ({}, edits))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, frozen)


def test_it_maps_over_runs(network):
    model, variables, inputs, labels = network
    given = jnp.asarray(np.asarray(integers(3, -1, 2, 2, 7, 5)).astype(np.int8))

    @jax.jit
    def of(given):
        return jax.grad(loss_of(model, inputs, labels, {"dense2": taps.frozen_signs(given)}))(variables["params"])

    mapped = jax.jit(jax.vmap(of))(given)
    for run in range(2):
        alone = of(given[run])
        jax.tree.map(lambda a, b, run=run: np.testing.assert_allclose(a[run], b, atol=1e-5), mapped, alone)


def test_a_shape_that_would_broadcast_is_refused(network):
    model, variables, inputs, labels = network
    short = loss_of(model, inputs, labels, {"dense1": taps.frozen_signs(jnp.asarray(np.ones((1, 5), np.int8)))})
    with pytest.raises(SiteError, match=r"shape \[1, 5\], the site's values \[7, 5\]"):
        jax.eval_shape(short, variables["params"])
    wide = taps.backward_edit(lambda g, c: g.astype(jnp.float16), jnp.ones((7, 5), jnp.int8))
    with pytest.raises(SiteError, match="must keep shape and dtype"):
        jax.eval_shape(jax.grad(loss_of(model, inputs, labels, {"dense1": wide})), variables["params"])
