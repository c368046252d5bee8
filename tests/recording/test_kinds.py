"""Kinds of models: signs and gradients against a float64 loop over single samples, reading, replacing, recording."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import neuron_mech
from kinds import KINDS
from written_out import squared

pytestmark = pytest.mark.usefixtures("lenient")


@pytest.mark.parametrize("name", KINDS)
def test_gradients_signs_and_records_are_those_of_the_network_written_out(name):
    kind = KINDS[name]
    variables, x, y = kind.data()
    exact = kind.derivatives()
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
