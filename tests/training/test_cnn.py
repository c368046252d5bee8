"""The convolutional network: its layers by hand, derivatives at positions, its schedule."""

import itertools
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.signal import correlate

import oracles
import small_cnn
from neuron_mech import taps, training
from neuron_mech.config import PRESETS
from neuron_mech.errors import InputError
from neuron_mech.taps.objectives import margin
from neuron_mech.training import models
from neuron_mech.training.models.cnn import CNN, max_pool
from small_cnn import SMALL

TWELVE = [f"stage{stage}layer{layer}" for stage in range(4) for layer in range(3)]
DEEP = replace(
    SMALL,
    model=replace(SMALL.model, depth=None),
    record=replace(SMALL.record, sites=("stage0layer0", "stage2layer2", "stage3layer2"), site_samples=("*:10",)),
)
"""With all layers of the paper's."""


@pytest.fixture(scope="module")
def data(digits):
    return small_cnn.few(digits)


@pytest.fixture(scope="module")
def studied(data):
    return small_cnn.studied(data)


def forward(
    variables, image: np.ndarray, activation: str, perturbation=None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """By hand in float64, one image: ({site: pre-activations}, logits). `perturbation`: (site, what is added)."""
    get = lambda *path: np.asarray(  # noqa: E731
        variables[path[0]][path[1]][path[2]], np.float64
    )
    x, values = image.astype(np.float64), {}
    for name in sorted(name.removesuffix("_conv") for name in variables["params"] if name.endswith("_conv")):
        if name in ("stage1layer0", "stage2layer0", "stage3layer0"):
            rows, columns = x.shape[0] // 2, x.shape[1] // 2
            x = x.reshape(rows, 2, columns, 2, -1).max((1, 3))
        kernel = get("params", f"{name}_conv", "kernel")
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        z = np.stack([correlate(padded, kernel[..., n], mode="valid")[..., 0] for n in range(kernel.shape[-1])], -1)
        z = z + get("params", f"{name}_conv", "bias")
        values[name] = z
        a = np.maximum(z, 0) if activation == "relu" else z
        a = a + perturbation[1] if perturbation and perturbation[0] == name else a
        mean, var = (get("batch_stats", f"{name}_norm", part) for part in ("mean", "var"))
        scale, bias = (get("params", f"{name}_norm", part) for part in ("scale", "bias"))
        x = (a - mean) / np.sqrt(var + 1e-3) * scale + bias
    return values, x.mean((0, 1)) @ get("params", "logits", "kernel") + get("params", "logits", "bias")


# --- The network ------------------------------------------------------------------------------------------------------


def test_the_paper_s_network_has_the_paper_s_layers():
    model = models.build(PRESETS["cifar10-relu"].model, 10)
    x = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    found = taps.sites(model, {k: variables[k] for k in ("params", "batch_stats")}, x)
    chosen = taps.select(found, ("all",))
    assert list(chosen) == TWELVE
    sizes = [(32, 64), (16, 128), (8, 256), (4, 512)]
    assert [site.shape for site in chosen.values()] == [(s, s, n) for s, n in sizes for _ in range(3)]
    widths = [3, *(n for _, n in sizes for _ in range(3))]
    convolutions = sum(9 * a * b + b for a, b in itertools.pairwise(widths))
    # Kernels and biases; two a neuron in the normalisation; the last layer.
    expected = convolutions + 2 * sum(widths[1:]) + 512 * 10 + 10
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected
    assert PRESETS["cifar10-linear"] == replace(
        PRESETS["cifar10-relu"],
        preset="cifar10-linear",
        model=replace(PRESETS["cifar10-relu"].model, activation="linear"),
    )


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_its_pre_activations_and_logits_are_those_by_hand(data, activation):
    _, state = small_cnn.studied(data, DEEP)
    model = models.build(replace(DEEP.model, activation=activation), 10)
    inputs = data.train.rows(jnp.arange(3)).inputs
    logits, values = jax.jit(lambda v, x: taps.read(model, v, x, tuple(TWELVE)))(state.variables, inputs)
    for i in range(3):
        by_hand, expected = forward(state.variables, np.asarray(inputs[i]), activation)
        np.testing.assert_allclose(logits[i], expected, rtol=1e-3, atol=1e-4)
        for name in TWELVE:
            np.testing.assert_allclose(values[name][i], by_hand[name], rtol=1e-3, atol=1e-4)


def test_images_that_pooling_leaves_nothing_of_are_refused():
    """Their mean over no position would be no number."""
    network = CNN(depth=1, neurons=(2, 2, 2, 2))
    assert jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 9, 1)))
    with pytest.raises(InputError, match="images of 9 x 7 pixels vanish in the pooling between 4 stages: give 8 x 8"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 9, 7, 1)))


def test_training_normalises_by_the_batch_and_moves_running_statistics_by_a_hundredth(studied, data):
    study, state = studied
    batch = data.train.rows(jnp.arange(16))
    step = jax.jit(lambda s, b: training.train_step(study.model, study.optimizer, s, b, {}))
    read = jax.jit(lambda v, x: taps.read(study.model, v, x, ("stage0layer0",)))
    (after, _, _), (_, pre) = step(state, batch), read(state.variables, batch.inputs)
    activations = np.maximum(np.asarray(pre["stage0layer0"]), 0)
    before, moved = (s.statistics["batch_stats"]["stage0layer0_norm"]["mean"] for s in (state, after))
    np.testing.assert_allclose(moved, 0.99 * before + 0.01 * activations.mean((0, 1, 2)), rtol=1e-4)


@given(arrays(np.float32, st.sampled_from([(1, 4, 4, 2), (2, 2, 6, 1), (1, 5, 3, 2)]), elements=st.integers(-2, 2)))
@settings(max_examples=25, deadline=None)
def test_pooling_and_its_derivative_are_flax_s_even_among_equal_values(maps):
    theirs = lambda x: nn.max_pool(x, (2, 2), strides=(2, 2))  # noqa: E731
    x = jnp.asarray(maps)
    np.testing.assert_array_equal(max_pool(x), theirs(x))
    weights = jax.random.normal(jax.random.key(0), theirs(x).shape)
    one, other = (jax.grad(lambda x, f=f: (f(x) * weights).sum())(x) for f in (max_pool, theirs))
    np.testing.assert_array_equal(one, other)


# --- Derivatives at positions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_derivatives_at_positions_are_finite_differences_in_double_precision(data, activation):
    study, state = small_cnn.studied(data, DEEP)
    model = models.build(replace(DEEP.model, activation=activation), 10)
    batch = data.train.rows(jnp.arange(2))
    by_loss = jax.jit(lambda v, x, y: taps.per_sample_gradients(model, v, x, y, study.sites, {"margin": margin}))
    found = jax.device_get(by_loss(state.variables, batch.inputs, batch.labels))["margin"]
    draw = np.random.default_rng(0)
    for i in range(2):
        image, label = np.asarray(batch.inputs[i]), int(batch.labels[i])
        for site, gradient in found.items():
            shape = gradient.shape[1:]
            for _ in range(6):
                where = tuple(draw.integers(0, size) for size in shape)
                perturbation = np.zeros(shape)
                perturbation[where] = 1e-6
                up, down = (
                    oracles.margin(forward(state.variables, image, activation, (site, sign * perturbation))[1], label)
                    for sign in (1, -1)
                )
                scale = float(np.abs(gradient[i]).max())
                assert float(gradient[(i, *where)]) == pytest.approx((up - down) / 2e-6, rel=2e-3, abs=1e-4 * scale)


def test_mapped_over_samples_convolutions_stay_those_of_the_whole_batch(studied, data):
    study, state = studied
    batch = data.train.rows(jnp.arange(10))

    def whole(variables, x, y):
        return taps.activation_gradients(study.model, variables, x, y, taps.zeros(study.sites, 10), {"margin": margin})[
            "margin"
        ]

    def alone(variables, x, y):
        return taps.per_sample_gradients(study.model, variables, x, y, study.sites, {"margin": margin})["margin"]

    texts, values = [], []
    for form in (whole, alone):
        found = jax.jit(form).lower(state.variables, batch.inputs, batch.labels)
        texts.append([line for line in found.as_text().splitlines() if "stablehlo.convolution" in line])
        values.append(found.compile()(state.variables, batch.inputs, batch.labels))
    assert len(texts[0]) == len(texts[1]) > 4
    assert all("feature_group_count = 1 " in line and "tensor<10x" in line for line in texts[1])
    for site, expected in values[0].items():
        np.testing.assert_allclose(values[1][site], expected, rtol=1e-4, atol=1e-6)
        largest = float(jnp.abs(expected).max())
        clear = np.abs(np.asarray(expected)) > 1e-5 * largest
        np.testing.assert_array_equal(np.sign(values[1][site])[clear], np.sign(expected)[clear])


# --- The schedule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "after", "first_slow"), [(100, 0.6, 60), (30, 0.6, 18), (5, 0.5, 2), (1, 0.6, 1), (7, 1.0, 7)]
)
def test_the_step_size_drops_after_its_share_of_the_epochs(epochs, after, first_slow):
    config = replace(SMALL, train=replace(SMALL.train, epochs=epochs, drop_after=after, drop_factor=5.0))
    optimizer = training.optimizer(config, 90)  # six batches an epoch
    state, rates = optimizer.init({"w": jnp.zeros(())}), []
    update = jax.jit(optimizer.update)
    for _ in range(6 * epochs):
        moved, state = update({"w": jnp.ones(())}, state)
        rates.append(-float(moved["w"]))
    np.testing.assert_allclose(rates[: 6 * first_slow], 0.05)
    np.testing.assert_allclose(rates[6 * first_slow :], 0.01)
