"""Kinds of models: signs and gradients against a float64 loop over single samples, reading, replacing, recording."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import neuron_mech
from kinds import KINDS as LINEN_KINDS
from nnx_kinds import NNX_KINDS
from written_out import squared

pytestmark = pytest.mark.usefixtures("lenient")

KINDS = LINEN_KINDS | NNX_KINDS


@cache
def exactly(name):
    return KINDS[name].derivatives()


@pytest.mark.parametrize("name", KINDS)
def test_gradients_signs_and_records_are_those_of_the_network_written_out(name):
    kind = KINDS[name]
    variables, x, y = kind.data()
    exact = exactly(name)
    how = {"loss": squared, "derivative": kind.derivative, "apply": kind.apply}
    found = neuron_mech.gradients(kind.model, variables, x, y, kind.names, **how)
    signs = neuron_mech.signs(kind.model, variables, x, y, kind.names, **how)
    recorder = neuron_mech.recorder(kind.model, variables, x, y, kind.names, recordings=3, audit=False, **how)
    recorded = recorder.update(variables)
    in_scan, _ = jax.jit(lambda r, v: jax.lax.scan(lambda r, _: (r.update(v), None), r, None, length=2))(
        recorded, variables
    )
    assert tuple(found) == kind.sites
    for site in kind.sites:
        np.testing.assert_allclose(found[site], exact[site], rtol=1e-4, atol=1e-5 * float(np.abs(exact[site]).max()))
        certain = np.abs(exact[site]) > 1e-5 * np.abs(exact[site]).max()
        assert certain.mean() > 0.3
        for seen in (signs[site], recorded.average_sign(site), in_scan.average_sign(site)):
            np.testing.assert_array_equal(np.asarray(seen)[certain], np.sign(exact[site])[certain])
        assert int(in_scan.count) == 3


@pytest.mark.parametrize("name", KINDS)
def test_what_a_training_step_shows_an_online_recorder_are_the_same_signs(name):
    kind = KINDS[name]
    variables, x, y = kind.data()
    exact = exactly(name)
    recorder = neuron_mech.online(
        *(kind.model, variables, x, kind.names), samples=6, recordings=2, derivative=kind.derivative, apply=kind.apply
    )

    @jax.jit
    def step(recorder, ids):
        some, labels = jax.tree.map(lambda leaf: leaf[ids], (x, y))

        def loss(perturbations):
            return squared(recorder.perturbed(perturbations)(variables, some, **kind.apply), labels).mean()

        return recorder.saw(jax.grad(loss)(recorder.perturbations(len(ids))), ids)

    for ids in ([4, 1, 3], [0, 5, 2], [5, 0, 1], [2, 3, 4]):
        recorder = step(recorder, jnp.asarray(ids))
    recorder = recorder.end_epoch()
    assert tuple(recorder.counts()) == kind.sites
    for site, tally in recorder.counts().items():
        certain = np.abs(exact[site]) > 1e-5 * np.abs(exact[site]).max()
        np.testing.assert_array_equal((tally.positive - tally.negative)[certain], 2 * np.sign(exact[site])[certain])


@pytest.mark.parametrize("name", KINDS)
def test_what_is_read_is_what_the_network_written_out_has_there_and_what_is_replaced_takes_effect(name):
    kind = KINDS[name]
    variables, x, _ = kind.data()
    seen = {}

    def note(name, value, edit=None):
        seen.setdefault(name, value)
        return edit(value) if edit and name == kind.sites[-1] else value

    given = x.args if isinstance(x, neuron_mech.Inputs) else (x,)
    words = {**(x.kwargs if isinstance(x, neuron_mech.Inputs) else {}), **kind.apply}
    plain = kind.model.apply(variables, *given, **words)
    np.testing.assert_allclose(kind.by_hand(variables["params"], x, note), plain, rtol=1e-4, atol=1e-5)
    for _ in range(2):
        out, values = neuron_mech.read(kind.model, variables, x, kind.names, where=kind.derivative, apply=kind.apply)
        np.testing.assert_allclose(out, plain, rtol=1e-5, atol=1e-6)
        for site in kind.sites:
            np.testing.assert_allclose(values[site], seen[site], rtol=1e-4, atol=1e-5)
    edit = lambda z: jnp.where(z > 0.1, z + 0.5, 0.2)  # noqa: E731  one that shows when it is made twice
    replaced = neuron_mech.replace(kind.model, {kind.sites[-1]: edit}, kind.derivative)(variables, x, **kind.apply)
    expected = kind.by_hand(variables["params"], x, lambda n, z: note(n, z, edit))
    np.testing.assert_allclose(replaced, expected, rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(replaced - plain).max()) > 1e-3
    # Nothing of it stays behind.
    np.testing.assert_array_equal(kind.model.apply(variables, *given, **words), plain)
