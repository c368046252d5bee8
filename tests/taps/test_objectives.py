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
from neuron_mech.taps.objectives import OBJECTIVES, cross_entropy, keras2017, margin, right

logits = arrays(np.float32, (5, 10), elements=st.floats(-30, 30, width=32))
labels = arrays(np.int32, 5, elements=st.integers(0, 9))


@jax.jit
def each(z, y):
    """All at once, compiled."""
    return {name: of(z, y) for name, of in OBJECTIVES.items()} | {"softplus": jax.nn.softplus(margin(z, y))}


@given(logits, labels)
@settings(max_examples=50, deadline=None)
def test_values_agree_with_double_precision(logits, labels):
    found = each(logits, labels)
    exact = -log_softmax(logits.astype(np.float64), axis=-1)[np.arange(5), labels]
    margins = [oracles.margin(row, label) for row, label in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(found["margin"], margins, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["softplus"], exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["cross_entropy"], exact, rtol=1e-5, atol=1e-5)
    # Near certainty -log(p) is as good as p: ten exponentials and their sum, each rounded by up to 1.2e-7 of itself.
    np.testing.assert_allclose(found["keras2017"], np.clip(exact, 1e-7, -np.log(1e-7)), rtol=1e-4, atol=2e-6)


def test_margin_keeps_the_sign_where_float32_cross_entropy_loses_it():
    z = np.asarray([30.0, -1.0, 0.0, 1.0], np.float32)
    slope = jax.jit(jax.grad(margin))(z, np.int32(0))
    assert np.sign(slope).tolist() == [-1.0, 1.0, 1.0, 1.0]
    lost = jax.jit(jax.grad(cross_entropy))(z, np.int32(0))
    assert lost[0] == 0.0  # p rounds to 1, and 1 - 1 to nothing


@pytest.mark.parametrize("confidence", [20.0, -20.0])
def test_keras2017_has_no_derivative_beyond_its_clipping(confidence):
    slope = jax.jit(jax.grad(keras2017))
    z = np.asarray([confidence, 0.0, 0.0], np.float32)
    assert not np.any(slope(z, np.int32(0)))
    assert np.all(slope(z / 4, np.int32(0)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_value_a_sample(name):
    logits, labels = jax.ShapeDtypeStruct((7, 10), jnp.float32), jax.ShapeDtypeStruct((7,), jnp.int32)
    assert jax.eval_shape(OBJECTIVES[name], logits, labels).shape == (7,)


def test_what_is_right_where_outputs_are_equal_infinite_or_no_numbers():
    nan, inf = np.nan, np.inf
    rows = [[0, 2, 1], [2, 2, 1], [1, 2, 2], [nan, 1, 0], [1, nan, 0], [nan] * 3, [inf, 0, 1], [-inf, 1, -inf]]
    by_label = jax.jit(right)(np.array([rows] * 3, np.float32), np.repeat(np.arange(3)[:, None], 8, 1))
    expected = [[False, True, False, False, False, False, False, False]]
    expected += [[True, False, True, False, False, False, False, True], [False] * 8]
    assert by_label.tolist() == expected
