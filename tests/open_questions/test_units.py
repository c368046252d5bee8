"""Activation functions for partitions: forward, backward, and what they are the derivative of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from drawn import by_init
from experiments.activation_functions import claims, units
from experiments.activation_functions.units import ARMS, Arm, Network, PercentileNorm
from neuron_mech.lazily import xarray as xr


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return rng.normal(size=40), rng.normal(size=40)  # u and upstream g, no zeros among them


EXPECTED = {
    "partition": lambda u, g: g * special.expit((1 - -np.sign(g) * u) / 0.5),
    "symmetric gate": lambda u, g: g * special.expit((1 - np.abs(u)) / 0.5),
    "anti gate": lambda u, g: g * special.expit((1 + -np.sign(g) * u) / 0.5),
    "sign, straight-through": lambda u, g: g * (np.abs(u) <= 1),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_forward_is_the_sign_and_backward_the_gate(values, name):
    u, g = values
    out, backward = jax.vjp(units.gated(units.two_sided, units.GATES[name], 0.5), jnp.asarray(u, jnp.float32))
    np.testing.assert_array_equal(out, np.where(u >= 0, 1, -1))
    np.testing.assert_allclose(backward(jnp.asarray(g, jnp.float32))[0], EXPECTED[name](u, g), rtol=1e-5, atol=1e-6)


def test_the_partitions_backward_pass_is_the_slope_of_a_logistic_loss(values):
    u, g = values
    beta, c = 0.25, -np.sign(g)

    def loss(u):
        return np.sum(np.abs(g) * beta * np.logaddexp(0, (1 - c * u) / beta))

    step = 1e-6
    slope = [(loss(u + step * e) - loss(u - step * e)) / (2 * step) for e in np.eye(len(u))]
    function = units.gated(units.two_sided, units.partition_gate, beta)
    found = jax.vjp(function, jnp.asarray(u, jnp.float32))[1](jnp.asarray(g, jnp.float32))[0]
    np.testing.assert_allclose(found, slope, rtol=1e-4, atol=1e-6)


def test_tanh_has_the_same_backward_pass_and_its_temperature_falls_to_a_tenth(values, lenient):
    u, g = (jnp.asarray(of, jnp.float32) for of in values)
    out, backward = jax.vjp(lambda u: units._soft(u, jnp.float32(0.3), 0.5), u)
    np.testing.assert_allclose(out, np.tanh(np.asarray(u) / 0.3), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(backward(g)[0], EXPECTED["partition"](*values), rtol=1e-5, atol=1e-6)
    model = Network(Arm("partition, tanh", False), depth=1, neurons=3, steps=5)
    state = by_init(model, 0, jnp.ones((4, 2)))
    taus = []
    for _ in range(7):
        taus.append(float(state["batch_stats"]["temperature1"]["tau"]))
        new = model.apply(state, jnp.ones((4, 2)), train=True, mutable=["batch_stats"])[1]
        state = {**state, **new}
    np.testing.assert_allclose(taus, [*(0.1 ** (k / 5) for k in range(6)), 0.1], rtol=1e-5)


def test_the_norm_is_by_percentiles_which_no_derivative_passes(lenient):
    norm, rng = PercentileNorm(80.0), np.random.default_rng(1)
    z = jnp.asarray(rng.normal(size=(50, 3)), jnp.float32)
    state = by_init(norm, 0, z, True)
    low, at, high = np.percentile(np.asarray(z), [16, 80, 84], axis=0)
    spread = (high - low) / 2 + 1e-3
    out, new = norm.apply(state, z, True, mutable=["batch_stats"])
    np.testing.assert_allclose(out, (np.asarray(z) - at) / spread, rtol=1e-4, atol=1e-5)
    slope = jax.grad(lambda z: norm.apply(state, z, True, mutable=["batch_stats"])[0].sum())(z)
    np.testing.assert_allclose(slope, np.broadcast_to(1 / spread, (50, 3)), rtol=1e-4)
    # After one step evaluation is by that batch alone; after two by the mean of both.
    np.testing.assert_allclose(norm.apply(new, z, False), out, rtol=1e-4, atol=1e-5)
    other = norm.apply(new, z + 1, True, mutable=["batch_stats"])[1]
    np.testing.assert_allclose(other["batch_stats"]["theta"], at + 0.5, rtol=1e-4)


def test_arms_have_names_of_their_own():
    assert len({arm.name for arm in ARMS}) == len(ARMS)
    assert {claims.UNIT, claims.GATE, *claims.RIVALS} <= {arm.name for arm in ARMS}


def test_the_window_slope_is_a_regressions():
    centers = np.arange(5, 100, 10)
    away = np.abs(centers - 50) / 45
    accuracy = special.expit(-1 + 1.7 * away)[None, None]
    found = xr.Dataset(
        {"window_accuracy": (("arm", "seed", "window_center"), accuracy)},
        {"arm": ["a"], "window_center": centers},
        {"test_samples": 10_000},
    )
    assert claims.window_slope(found).item() == pytest.approx(1.7)


def test_a_network_at_chance_has_nothing_to_keep():
    accuracy = xr.DataArray([[[[0.9]], [[0.1]]]], dims=("arm", "seed", "part", "epoch"), coords={"part": ["test"]})
    quantized = xr.DataArray([[[[0.5]], [[0.1]]]], dims=("arm", "seed", "site", "rank"))
    kept = claims.kept(xr.Dataset({"accuracy": accuracy, "quantized": quantized}, attrs={"classes": 10}))
    np.testing.assert_allclose(kept.values.ravel(), [0.5, np.nan])
