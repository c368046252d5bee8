"""Coherence and agreement of samples, against every sample's own weight gradient in float64."""

import jax
import numpy as np

from neuron_mech.recording import coherence


def test_they_are_what_single_gradients_say():
    rng = np.random.default_rng(0)
    inputs, derivatives = rng.normal(size=(12, 6)), rng.normal(size=(12, 4))
    derivatives[rng.random((12, 4)) < 0.2] = 0
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(coherence.coherence)(inputs, derivatives))
        agrees = np.asarray(jax.jit(coherence.agrees)(inputs, derivatives))
    assert found.dtype == np.float64
    for neuron in range(4):
        single = np.stack([derivatives[i, neuron] * inputs[i] for i in range(12)])
        expected = np.linalg.norm(single.sum(0)) ** 2 / (12 * sum(np.linalg.norm(g) ** 2 for g in single))
        np.testing.assert_allclose(found[neuron], expected, rtol=1e-12)
        for i in range(12):
            others = sum(single[k] for k in range(12) if k != i)
            assert agrees[i, neuron] == (single[i] @ others > 0)


def test_its_ends():
    of = jax.jit(coherence.coherence)
    h, same = np.ones((5, 5), np.float32), np.ones((5, 1), np.float32)
    np.testing.assert_allclose(of(h, same), 1)
    np.testing.assert_allclose(of(np.eye(5, dtype=np.float32), same), 1 / 5)
    np.testing.assert_allclose(of(h, np.array([[1.0], [-1], [1], [-1], [0]], np.float32)), 0)
    assert np.isnan(of(h, 0 * same)).all()
