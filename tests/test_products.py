"""Convolutions as matrix products, and windows retrained in that form."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import logsumexp

import small_cnn
from neuron_mech import binarization, retraining, taps
from neuron_mech.precision import rewritten, shifted, unfolded
from small_cnn import LAYERS, SMALL

BATCH = 12
SITE = "stage1layer1"
"""Followed by convolutions of 4x4, 2x2 and 1x1 positions."""


@pytest.fixture(scope="module")
def data(digits):
    return small_cnn.few(digits)


@pytest.fixture(scope="module")
def cut(data):
    study, state = small_cnn.studied(data)
    one = data.train.rows(jnp.arange(1))
    site = taps.sites(study.model, state.variables, one.inputs)[SITE]
    return retraining.cut(SMALL, study.model, state.variables, one, site)


@pytest.fixture(scope="module")
def seen(data, cut):
    """Three windows' bits."""
    inside = jax.random.bernoulli(jax.random.key(1), 0.3, (3, len(data.train), *cut.site.shape))
    return retraining.Binarized(jnp.stack([binarization.pack(window) for window in inside]), data.train.labels)


CONVOLUTIONS = {
    "same": {"padding": "SAME"},
    "strides": {"padding": ((2, 0), (1, 3)), "window_strides": (2, 3)},
    "dilated": {"padding": "SAME", "rhs_dilation": (2, 1)},
    "spread": {"padding": ((1, 2), (0, 1)), "lhs_dilation": (2, 3)},
    "features in groups": {"padding": "SAME", "feature_group_count": 2},
    "samples in groups": {"padding": "VALID", "batch_group_count": 2},
    "channels first": {"padding": "SAME", "dimension_numbers": ("NCHW", "OIHW", "NCHW")},
}


@pytest.mark.parametrize("how", [shifted, unfolded])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_the_sum_of_its_products(name, how):
    settings = {"window_strides": (1, 1), "dimension_numbers": ("NHWC", "HWIO", "NHWC")} | CONVOLUTIONS[name]
    draw = np.random.default_rng(0)
    left = draw.normal(size=(4, 4, 8, 7) if name == "channels first" else (4, 8, 7, 4)).astype(np.float32)
    inputs = 2 if "feature_group_count" in settings else 4
    right = draw.normal(size=(6, 4, 3, 2) if name == "channels first" else (3, 2, inputs, 6)).astype(np.float32)

    def convolved(left, right):
        return jax.lax.conv_general_dilated(left, right, **settings)

    products = rewritten(convolved, how)
    np.testing.assert_allclose(products(left, right), convolved(left, right), atol=2e-5)
    text = jax.jit(products).lower(left, right).as_text()
    one = how is unfolded and "group" not in name
    assert (text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")) == (0, 1 if one else 6)


def trained(cut, seen, data, form):
    """Parameters after an epoch of all windows together."""
    retrain = retraining.Retraining(replace(cut, form=form))
    state, losses = retrain.epoch(retrain.start(len(seen.bits)), seen, *retrain.order(len(seen.labels), 0))
    assert losses.shape == (len(seen.bits),)
    return jax.device_get((state.params, state.statistics)), np.asarray(retrain._accuracy(state, seen.bits, seen.labels))


@pytest.mark.parametrize("form", ["convolutions", "products", "patches"])
def test_windows_together_in_any_form_are_those_of_windows_apart(cut, seen, data, form):
    together, accuracies = trained(cut, seen, data, form)
    for index in range(3):
        one = seen.replace(bits=seen.bits[index : index + 1])
        apart, accuracy = trained(cut, one, data, "convolutions")
        for mine, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
            np.testing.assert_allclose(mine[index], theirs[0], rtol=1e-3, atol=2e-5)
        assert accuracies[index] == pytest.approx(accuracy[0], abs=1 / len(seen.labels))


def loss_by_hand(params, maps, labels):
    """Cross-entropy, in float64, of what follows SITE in training, from zeros and ones in place of pre-activations."""
    get = lambda name, part: np.asarray(params[name][part], np.float64)  # noqa: E731
    x = maps
    for name in LAYERS[LAYERS.index(SITE) :]:
        if name != SITE:
            if name.endswith("layer0"):
                rows, columns = x.shape[1] // 2, x.shape[2] // 2
                x = x.reshape(len(x), rows, 2, columns, 2, -1).max((2, 4))
            padded, kernel = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), get(f"{name}_conv", "kernel")
            each = [correlate(padded, kernel[None, ..., n], mode="valid")[..., 0] for n in range(kernel.shape[-1])]
            x = np.stack(each, -1) + get(f"{name}_conv", "bias")
        x = np.maximum(x, 0)
        x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)
        x = x * get(f"{name}_norm", "scale") + get(f"{name}_norm", "bias")
    logits = x.mean((1, 2)) @ get("logits", "kernel") + get("logits", "bias")
    return (logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("form", ["convolutions", "products", "patches"])
def test_a_step_of_windows_together_is_down_the_gradient_by_hand(cut, seen, form):
    retrain = retraining.Retraining(replace(cut, form=form))
    start, ids = retrain.start(3), np.arange(BATCH, dtype=np.int32)
    before = jax.device_get(start.params)
    state, losses = retrain.epoch(start, seen, ids[None], None)
    draw, rate = np.random.default_rng(0), SMALL.train.learning_rate
    for index in range(3):
        params = jax.tree.map(lambda leaf, i=index: np.asarray(leaf[i], np.float64), before)
        moved = jax.tree.map(lambda leaf, i=index: np.asarray(leaf[i], np.float64), jax.device_get(state.params))
        maps = np.asarray(binarization.unpack(seen.bits[index][ids], cut.site.shape), np.float64)
        labels = np.asarray(seen.labels[ids])
        assert float(losses[index]) == pytest.approx(loss_by_hand(params, maps, labels), rel=1e-5)
        for part in ("stage1layer2_conv", "stage2layer2_conv", "stage3layer0_conv", "logits"):
            gradient = (params[part]["kernel"] - moved[part]["kernel"]) / rate
            direction = draw.normal(size=gradient.shape)
            ends = [
                loss_by_hand(
                    params | {part: params[part] | {"kernel": params[part]["kernel"] + step * direction}}, maps, labels
                )
                for step in (1e-6, -1e-6)
            ]
            scale = np.linalg.norm(gradient)
            assert (gradient * direction).sum() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=2e-3 * scale)


@pytest.mark.parametrize("form", ["products", "patches"])
def test_without_convolutions_the_form_changes_no_bit(cut, seen, data, form):
    study, state = small_cnn.studied(data)
    one = data.train.rows(jnp.arange(1))
    last = retraining.cut(SMALL, study.model, state.variables, one, study.sites["stage3layer2"])
    bits = seen.bits[:, :, : binarization.pack(jnp.zeros((1, *last.site.shape), bool)).shape[1]]
    few = seen.replace(bits=bits)
    as_it_is, other = (trained(last, few, data, kind)[0] for kind in ("convolutions", form))
    for mine, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(as_it_is), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_an_epoch_of_products_is_one_program_everywhere(cut):
    """Convolutions are looped over from the host on a CPU."""
    assert cut.stepwise
    assert not any(replace(cut, form=form).stepwise for form in ("products", "patches"))
