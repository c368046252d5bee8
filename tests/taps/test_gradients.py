"""Gradients at sites are those of finite differences and double precision, and samples that mix are caught."""

import jax
import numpy as np
import pytest

import oracles
from drawn import started
from neuron_mech import taps
from neuron_mech.taps import SiteError, sample_mixing
from neuron_mech.taps.objectives import OBJECTIVES, margin
from neuron_mech.training.models import MLP
from stock_models import StockCNN, StockMLP, Wrapped, batch, initialised


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("derivative", ["activation", "pre_activation"])
def test_one_backward_pass_and_vmap_and_double_precision_agree(activation, derivative):
    model = MLP(activation=activation, neurons=32)
    x, y = batch(6, 8, 8, 1)
    variables = initialised(model, x)
    sites = taps.select(taps.sites(model, variables, x), ("all",))

    @jax.jit
    def both(*given):
        whole = taps.activation_gradients(model, *given, taps.zeros(sites, 6), OBJECTIVES, derivative)
        return whole, taps.per_sample_gradients(model, *given, sites, OBJECTIVES, derivative)

    whole, alone = both(variables, x, y)
    oracle = oracles.MLP(variables["params"], activation)
    for site in sites:
        exact = np.stack([oracle.margin_gradients(np.asarray(x[i]), int(y[i]))[derivative][site] for i in range(6)])
        np.testing.assert_allclose(whole["margin"][site], exact, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(alone["margin"][site], exact, rtol=1e-4, atol=1e-6)
        # The cross-entropy's derivative is the margin's times sigmoid(margin).
        logits = np.stack([oracle.forward(np.asarray(x[i]))[1] for i in range(6)])
        weight = 1 / (1 + np.exp([-oracles.margin(z, int(label)) for z, label in zip(logits, y, strict=True)]))
        np.testing.assert_allclose(whole["cross_entropy"][site], exact * weight[:, None], rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(
            np.sign(alone["margin"][site]), np.sign(np.where(np.abs(exact) < 1e-12, 0, exact))
        )


@pytest.mark.parametrize("make", [StockMLP, StockCNN, lambda: Wrapped("remat"), lambda: Wrapped("jit")])
def test_gradients_at_a_layer_of_an_unedited_network_are_finite_differences(make):
    model = make()
    x, y = batch(3, 6) if isinstance(model, Wrapped) else batch(3, 8, 8, 1)
    variables = initialised(model, x)
    site = next(iter(taps.sites(model, variables, x)))
    chosen = taps.select(taps.sites(model, variables, x), (site,))

    def gradients(*given):
        zeros = taps.zeros(chosen, 3)
        return taps.activation_gradients(model, *given, zeros, {"margin": margin}, "pre_activation")["margin"][site]

    @jax.jit
    def summed(perturbation):
        return margin(taps.perturbed(model, {site: perturbation}, "pre_activation")(variables, x), y).sum()

    jax.eval_shape(gradients, variables, x, y)  # the second time, a compiled submodule could answer from its cache
    found = np.asarray(jax.jit(gradients)(variables, x, y))
    where = np.unravel_index(np.argmax(np.abs(found)), found.shape)
    step = 1e-2

    def at(offset):
        perturbation = np.zeros_like(found)
        perturbation[where] = offset
        return float(summed(perturbation))

    assert float(found[where]) == pytest.approx((at(step) - at(-step)) / (2 * step), rel=2e-2)


def test_a_nudge_for_one_sample_is_refused_for_a_batch():
    model = MLP()
    x, y = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    sites = taps.select(taps.sites(model, variables, x), ("all",))
    with pytest.raises(SiteError, match=r"shape \[1, 512\], its values \[4, 512\]: broadcasting would sum"):
        taps.activation_gradients(model, variables, x, y, taps.zeros(sites, 1), {"margin": margin})


def test_the_activation_of_a_stock_layer_is_out_of_reach():
    model = StockMLP()
    x, y = batch(4, 8, 8, 1)
    variables = initialised(model, x)
    sites = taps.sites(model, variables, x)
    with pytest.raises(SiteError, match="only its pre-activation can be reached"):
        taps.activation_gradients(model, variables, x, y, taps.zeros(sites, 4), {"margin": margin})


# --- Samples that mix -------------------------------------------------------------------------------------------------


def test_batch_normalisation_in_training_mode_is_caught_mixing_samples():
    model = StockCNN(norm=True)
    x, y = batch(8, 8, 8, 1)
    variables = started(model, 0, x)
    sites = taps.select(taps.sites(model, variables, x), ("Conv_0", "Conv_1"))
    trained = sample_mixing.mixing(
        model, variables, x, y, sites, margin, "pre_activation", train=True, mutable=["batch_stats"]
    )
    # Upstream of the normalisation samples mix both ways, downstream through the values.
    assert all(value > sample_mixing.LIMIT for value in trained.values())
    running = sample_mixing.mixing(model, variables, x, y, sites, margin, "pre_activation")
    assert all(value < sample_mixing.LIMIT for value in running.values())


def test_per_sample_gradients_cannot_mix_even_there():
    model = StockCNN(norm=True)
    x, y = batch(8, 8, 8, 1)
    variables = started(model, 0, x)
    sites = taps.select(taps.sites(model, variables, x), ("Conv_0",))
    options = {"derivative": "pre_activation", "train": True, "mutable": ["batch_stats"]}

    @jax.jit
    def gradients(x):
        return taps.per_sample_gradients(model, variables, x, y, sites, {"margin": margin}, **options)["margin"]

    x = np.asarray(x)
    found, beside_others = (np.asarray(gradients(of)["Conv_0"]) for of in (x, np.concatenate([x[:4], 3 * x[4:] + 1])))
    np.testing.assert_allclose(found[:4], beside_others[:4], atol=1e-6)
    assert np.abs(found[4:] - beside_others[4:]).max() > 1e-3
