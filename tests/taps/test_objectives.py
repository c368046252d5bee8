"""Objectives against closed forms in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax

import oracles
from neuron_mech.taps.objectives import OBJECTIVES, cross_entropy, keras2017, margin

logits = arrays(np.float32, (5, 10), elements=st.floats(-30, 30, width=32))
labels = arrays(np.int32, 5, elements=st.integers(0, 9))


@given(logits, labels)
@settings(max_examples=50, deadline=None)
def test_values_agree_with_double_precision(logits, labels):
    z, y = jnp.asarray(logits), jnp.asarray(labels)
    exact = -log_softmax(logits.astype(np.float64), axis=-1)[np.arange(5), labels]
    margins = [oracles.margin(row, label) for row, label in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(margin(z, y), margins, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.nn.softplus(margin(z, y)), exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cross_entropy(z, y), exact, rtol=1e-5, atol=1e-5)
    # Near certainty -log(p) is as good as p: ten exponentials and their sum, each rounded by up to 1.2e-7 of itself.
    np.testing.assert_allclose(keras2017(z, y), np.clip(exact, 1e-7, -np.log(1e-7)), rtol=1e-4, atol=2e-6)


def test_margin_keeps_the_sign_where_float32_cross_entropy_loses_it():
    z = jnp.asarray([30.0, -1.0, 0.0, 1.0])
    slope = jax.grad(lambda z: margin(z, jnp.asarray(0)))(z)
    assert (jnp.sign(slope) == jnp.asarray([-1.0, 1.0, 1.0, 1.0])).all()
    lost = jax.grad(lambda z: cross_entropy(z, jnp.asarray(0)))(z)
    assert lost[0] == 0.0  # p rounds to 1, and 1 - 1 to nothing


@pytest.mark.parametrize("confidence", [20.0, -20.0])
def test_keras2017_has_no_derivative_beyond_its_clipping(confidence):
    z = jnp.asarray([confidence, 0.0, 0.0])
    assert (jax.grad(lambda z: keras2017(z, jnp.asarray(0)))(z) == 0.0).all()
    near = jnp.asarray([confidence / 4, 0.0, 0.0])
    assert (jax.grad(lambda z: keras2017(z, jnp.asarray(0)))(near) != 0.0).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_value_a_sample(name):
    assert OBJECTIVES[name](jnp.zeros((7, 10)), jnp.zeros(7, jnp.int32)).shape == (7,)
