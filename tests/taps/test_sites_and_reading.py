"""Sites are found and read: on our networks, on stock ones, and where it must be refused."""

import jax
import numpy as np
import pytest

import oracles
from neuron_mech import taps
from neuron_mech.taps import SiteError
from neuron_mech.training.models import MLP
from stock_models import StockCNN, StockMLP, Twice, Wrapped, batch, initialised

# --- Sites ------------------------------------------------------------------------------------------------------------


def test_sites_of_our_network_are_listed_with_shapes_before_anything_runs():
    model = MLP(neurons=16)
    x, _ = batch(3, 8, 8, 1)
    found = taps.sites(model, initialised(model, x), x)
    assert {n: (s.kind, s.shape) for n, s in found.items() if s.kind == "Neurons"} == {
        "dense1": ("Neurons", (16,)),
        "dense2": ("Neurons", (16,)),
    }
    assert list(taps.select(found, ("all",))) == ["dense1", "dense2"]


def test_sites_of_an_unedited_network():
    model = StockCNN()
    x, _ = batch(3, 8, 8, 1)
    found = taps.sites(model, initialised(model, x), x)
    assert {n: s.shape for n, s in found.items()} == {"Conv_0": (8, 8, 4), "Conv_1": (4, 4, 6), "Dense_0": (10,)}


def test_an_unknown_site_names_the_nearest_and_the_others():
    model = MLP()
    x, _ = batch(3, 8, 8, 1)
    with pytest.raises(SiteError, match=r"'dense3' is no site; did you mean 'dense\d'\? sites are: .*dense1"):
        taps.select(taps.sites(model, initialised(model, x), x), ("dense3",))


@pytest.mark.parametrize(
    ("model", "site", "message"),
    [
        (Wrapped("scan"), "layers/neurons", r"used 3 times.*'layers/neurons@0' to 'layers/neurons@2'"),
        (Wrapped("scan with axis"), "layers/neurons", r"used 3 times.*'layers/neurons@0' to 'layers/neurons@2'"),
        (Twice(), "shared", r"used 2 times.*'shared@0' to 'shared@1', or all of them, 'shared@\*'"),
    ],
)
def test_a_site_without_a_single_value_is_refused_with_what_to_do(model, site, message):
    x, _ = batch(5, 6)
    found = taps.sites(model, initialised(model, x), x)
    with pytest.raises(SiteError, match=message):
        taps.select(found, (site,))


# --- Read -------------------------------------------------------------------------------------------------------------


def test_read_gives_pre_activations_as_computed_by_hand():
    model = MLP(neurons=16)
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    logits, values = jax.jit(lambda v: taps.read(model, v, x, ("dense1", "dense2")))(variables)
    logits, values = jax.tree.map(np.asarray, (logits, values))
    oracle = oracles.MLP(variables["params"], "relu")
    for i in range(4):
        (z1, z2), by_hand = oracle.forward(np.asarray(x[i]))
        np.testing.assert_allclose(values["dense1"][i], z1, atol=1e-5)
        np.testing.assert_allclose(values["dense2"][i], z2, atol=1e-5)
        np.testing.assert_allclose(logits[i], by_hand, atol=1e-5)


def test_read_of_an_unedited_network_gives_its_layers_outputs():
    model = StockMLP()
    x, _ = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    params = variables["params"]
    logits, values = jax.jit(lambda v: taps.read(model, v, x, ("Dense_0", "Dense_1")))(variables)
    np.testing.assert_allclose(
        values["Dense_0"], np.asarray(x).reshape(4, -1) @ np.asarray(params["Dense_0"]["kernel"]), atol=1e-5
    )
    np.testing.assert_array_equal(values["Dense_1"], logits)


@pytest.mark.parametrize(
    ("model", "site"), [(Wrapped("scan"), "layers/neurons"), (Twice(), "shared"), (MLP(), "dense9")]
)
def test_read_refuses_a_site_that_gives_no_single_value(model, site):
    x, _ = batch(5, 6)
    with pytest.raises(SiteError, match=site):
        taps.read(model, initialised(model, x), x, (site,))
