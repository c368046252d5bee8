"""Kinds of models: signs and gradients against a float64 loop over single samples, reading, replacing, recording."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import neuron_mech
from kinds import KINDS as LINEN_KINDS
from nnx_kinds import NNX_KINDS
from written_out import edit, squared

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("lenient")]

KINDS = LINEN_KINDS | NNX_KINDS

EAGER = {
    "jit",
    "scan, and its residual stream",
    "vmap over members",
    "bare functions",
    "nnx.scan, and inputs of blocks",
}
"""Kinds that are read, edited and recorded outside of `jit` too: one of each sort."""


@pytest.mark.parametrize("name", KINDS)
def test_gradients_signs_and_records_are_those_of_the_network_written_out(name):
    kind = KINDS[name]
    variables, x, y = kind.data
    exact = kind.exact.derivatives
    how = {"loss": squared, "derivative": kind.derivative, "apply": kind.apply}
    found = neuron_mech.gradients(kind.model, variables, x, y, kind.names, **how)
    signs = neuron_mech.signs(kind.model, variables, x, y, kind.names, **how)
    recorder = neuron_mech.recorder(kind.model, variables, x, y, kind.names, recordings=3, audit=False, **how)
    turns = 3
    if name in EAGER:
        recorder, turns = recorder.update(variables), 2
    in_scan, _ = jax.jit(lambda r, v: jax.lax.scan(lambda r, _: (r.update(v), None), r, None, length=turns))(
        recorder, variables
    )
    assert tuple(found) == kind.sites
    for site in kind.sites:
        np.testing.assert_allclose(found[site], exact[site], rtol=1e-4, atol=1e-5 * float(np.abs(exact[site]).max()))
        certain = np.abs(exact[site]) > 1e-5 * np.abs(exact[site]).max()
        assert certain.mean() > 0.3
        for seen in (
            signs[site],
            in_scan.average_sign(site),
            *([recorder.average_sign(site)] if name in EAGER else []),
        ):
            np.testing.assert_array_equal(np.asarray(seen)[certain], np.sign(exact[site])[certain])
        assert int(in_scan.count) == 3


@pytest.mark.parametrize("name", KINDS)
def test_what_a_training_step_shows_an_online_recorder_are_the_same_signs(name):
    kind = KINDS[name]
    variables, x, y = kind.data
    exact = kind.exact.derivatives
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
        lead = np.asarray(tally.positive) - np.asarray(tally.negative)
        np.testing.assert_array_equal(lead[certain], 2 * np.sign(exact[site])[certain])


@pytest.mark.parametrize("name", KINDS)
def test_what_is_read_is_what_the_network_written_out_has_there_and_what_is_replaced_takes_effect(name):
    kind = KINDS[name]
    variables, x, _ = kind.data
    given = x.args if isinstance(x, neuron_mech.Inputs) else (x,)
    words = {**(x.kwargs if isinstance(x, neuron_mech.Inputs) else {}), **kind.apply}

    def asked(variables):
        """What is read and replaced, and the model's own outputs before and after."""
        plain = kind.model.apply(variables, *given, **words)
        out, values = neuron_mech.read(kind.model, variables, x, kind.names, where=kind.derivative, apply=kind.apply)
        replaced = neuron_mech.replace(kind.model, {kind.sites[-1]: edit}, kind.derivative)(variables, x, **kind.apply)
        return plain, out, values, replaced, kind.model.apply(variables, *given, **words)

    exact = kind.exact
    for ask in (jax.jit(asked), asked)[: 1 + (name in EAGER)]:
        plain, out, values, replaced, after = ask(variables)
        np.testing.assert_allclose(plain, exact.outputs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out, plain, rtol=1e-5, atol=1e-6)
        for site in kind.sites:
            np.testing.assert_allclose(values[site], exact.values[site], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(replaced, exact.replaced, rtol=1e-4, atol=1e-5)
        assert np.abs(np.asarray(replaced) - np.asarray(plain)).max() > 1e-3
        np.testing.assert_allclose(after, plain, rtol=1e-6)  # nothing of it stays behind
