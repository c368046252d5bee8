"""Coherence and agreement of samples, against every sample's own weight gradient in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from neuron_mech.recording import coherence


def test_they_are_what_single_gradients_say():
    rng = np.random.default_rng(0)
    inputs, derivatives = rng.normal(size=(12, 6)), rng.normal(size=(12, 4))
    derivatives[rng.random((12, 4)) < 0.2] = 0
    with jax.enable_x64(True):
        found = np.asarray(coherence.coherence(jnp.asarray(inputs), jnp.asarray(derivatives)))
        agrees = np.asarray(coherence.agrees(jnp.asarray(inputs), jnp.asarray(derivatives)))
    assert found.dtype == np.float64
    for neuron in range(4):
        single = np.stack([derivatives[i, neuron] * inputs[i] for i in range(12)])
        expected = np.linalg.norm(single.sum(0)) ** 2 / (12 * sum(np.linalg.norm(g) ** 2 for g in single))
        np.testing.assert_allclose(found[neuron], expected, rtol=1e-12)
        for i in range(12):
            others = sum(single[k] for k in range(12) if k != i)
            assert agrees[i, neuron] == (single[i] @ others > 0)


def test_its_ends():
    h = jnp.ones((5, 3))
    same = jnp.ones((5, 1))
    np.testing.assert_allclose(coherence.coherence(h, same), 1)
    np.testing.assert_allclose(coherence.coherence(jnp.eye(5), same), 1 / 5)
    np.testing.assert_allclose(coherence.coherence(h[:4], jnp.array([[1.0], [-1], [1], [-1]])), 0)
    assert np.isnan(coherence.coherence(h, jnp.zeros((5, 1)))).all()
