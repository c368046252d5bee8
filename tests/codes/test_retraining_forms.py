"""Windows retrained together, their convolutions as batched products: those of windows apart, and of float64."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import logsumexp

import small_cnn
from neuron_mech import taps
from neuron_mech.codes import retraining, windowing
from small_cnn import LAYERS, SMALL

BATCH = 12
SITE = "stage0layer0"
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
    """Two windows' bits."""
    inside = jax.random.bernoulli(jax.random.key(1), 0.3, (2, len(data.train), *cut.site.shape))
    return retraining.Binarized(jnp.stack([windowing.pack(window) for window in inside]), data.train.labels)


def stepped(retrain, seen):
    """(parameters before, parameters and statistics after a step of all windows together, losses, accuracies)."""
    start = retrain.start(len(seen.bits))
    before = jax.device_get(start.params)
    state, losses = retrain.epoch(start, seen, np.arange(BATCH, dtype=np.int32)[None], None)
    accuracies = retrain._accuracy(state, seen.bits, seen.labels)
    return before, *jax.device_get(((state.params, state.statistics), losses, accuracies))


@pytest.fixture(scope="module")
def apart(cut, seen):
    """The same of each window alone, by convolutions."""
    retrain = retraining.Retraining(cut)
    return [stepped(retrain, seen.replace(bits=seen.bits[k : k + 1])) for k in range(len(seen.bits))]


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
def test_a_step_of_windows_together_is_that_of_windows_apart_and_by_hand(cut, seen, apart, form):
    before, (params, statistics), losses, accuracies = stepped(retraining.Retraining(replace(cut, form=form)), seen)
    draw, rate = np.random.default_rng(0), SMALL.train.learning_rate
    for index in range(len(seen.bits)):
        of_one = lambda tree, i=index: jax.tree.map(lambda leaf: np.asarray(leaf[i], np.float64), tree)  # noqa: E731
        _, (params_apart, statistics_apart), (loss_apart,), (accuracy_apart,) = apart[index]
        assert losses[index] == pytest.approx(loss_apart, rel=1e-5)
        assert accuracies[index] == pytest.approx(accuracy_apart, abs=1.5 / len(seen.labels))
        start, moved = of_one(before), of_one(params)
        steps, steps_apart = (
            jax.tree.leaves(jax.tree.map(np.subtract, start, after))
            for after in (moved, jax.tree.map(lambda leaf: leaf[0], params_apart))
        )
        for mine, theirs in zip(steps, steps_apart, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-4 * np.abs(theirs).max())
        for mine, theirs in zip(jax.tree.leaves(statistics), jax.tree.leaves(statistics_apart), strict=True):
            np.testing.assert_allclose(mine[index], theirs[0], atol=1e-6)
        # By hand: the loss, and its slope along random directions of some kernels, from differences.
        maps = np.asarray(windowing.unpack(seen.bits[index][:BATCH], cut.site.shape), np.float64)
        labels = np.asarray(seen.labels[:BATCH])
        assert losses[index] == pytest.approx(loss_by_hand(start, maps, labels), rel=1e-5)
        for part in ("stage1layer0_conv", "stage2layer0_conv", "stage3layer0_conv", "logits"):
            gradient = (start[part]["kernel"] - moved[part]["kernel"]) / rate
            direction = draw.normal(size=gradient.shape)
            up, down = (
                loss_by_hand(
                    start | {part: start[part] | {"kernel": start[part]["kernel"] + step * direction}}, maps, labels
                )
                for step in (1e-6, -1e-6)
            )
            expected = (up - down) / 2e-6
            assert (gradient * direction).sum() == pytest.approx(expected, abs=1e-3 * np.linalg.norm(gradient))


@pytest.mark.parametrize("form", ["products", "patches"])
def test_without_convolutions_the_form_changes_no_bit(cut, seen, data, form):
    study, state = small_cnn.studied(data)
    one = data.train.rows(jnp.arange(1))
    last = retraining.cut(SMALL, study.model, state.variables, one, study.sites["stage3layer0"])
    few = seen.replace(bits=seen.bits[:, :, : windowing.pack(jnp.zeros((1, *last.site.shape), bool)).shape[1]])
    as_it_is, other = (stepped(retraining.Retraining(replace(last, form=kind)), few) for kind in ("convolutions", form))
    for mine, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(as_it_is), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_an_epoch_of_products_is_one_program_everywhere(cut):
    """Convolutions are looped over from the host on a CPU."""
    assert cut.stepwise
    assert not any(replace(cut, form=form).stepwise for form in ("products", "patches"))
