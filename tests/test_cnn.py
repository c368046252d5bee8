"""The convolutional network: its layers by hand, derivatives at positions, studies whose sites differ in samples."""

import itertools
import os
import signal
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
from experiments import binarization as binarization_experiment
from experiments import gradient_signs, quantization
from neuron_mech import (
    augmentation,
    binarization,
    datasets,
    models,
    planning,
    recording,
    results,
    retraining,
    runs,
    subjects,
    taps,
    training,
    trajectories,
)
from neuron_mech.errors import InputError, Interrupted
from neuron_mech.models.cnn import max_pool
from neuron_mech.objectives import margin
from neuron_mech.presets import PRESETS, Config, Data, Model, Record, Train, Watch, random_stream

LAYERS = [f"stage{stage}layer{layer}" for stage in range(4) for layer in range(3)]
SMALL = Config(
    "digits",
    data=Data("digits", augment=True),
    model=Model(network="cnn", depth=None, dropout=None, width=1 / 32),
    train=Train(learning_rate=0.05, batch_size=16, epochs=2, drop_after=0.5),
    record=Record(
        every=2,
        samples=40,
        sites=("stage0layer0", "stage2layer2", "stage3layer2"),
        site_samples=("stage3layer2:40", "stage2layer2:25", "*:10"),
        chunk=12,
    ),
    watch=Watch(recordings=3, samples=30, wide_recordings=2, wide_samples=20, neurons=2),
)
"""Neurons 2, 4, 8, 16; groups of 10, 15 and 15 samples, the chunks of none of them even."""


@pytest.fixture(scope="module")
def data(digits):
    """Five full batches of 16 and one of 10."""
    return replace(digits, train=digits.train.rows(jnp.arange(90)), test=digits.test.rows(jnp.arange(60)))


@pytest.fixture(scope="module")
def studied(data):
    study, state = planning.study(SMALL, data)
    return study, disturbed(state)


def disturbed(state):
    """A state whose statistics, scales and biases are nobody's defaults."""
    leaves, tree = jax.tree.flatten((state.params, state.statistics))
    keys = jax.random.split(jax.random.key(5), len(leaves))
    leaves = [leaf + 0.2 * jax.random.uniform(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    params, statistics = jax.tree.unflatten(tree, leaves)
    return state.replace(params=params, statistics=statistics)


def lowered(function, *arguments):
    """`function` lowered by its arguments' leaves: types with checked shapes hold arrays alone."""
    leaves, tree = jax.tree.flatten(arguments)
    return jax.jit(lambda *leaves: function(*jax.tree.unflatten(tree, leaves))).lower(*leaves)


def forward(variables, image: np.ndarray, activation: str, nudge=None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The network by hand in float64, one image: ({site: pre-activations}, logits). `nudge`: (site, what is added)."""
    get = lambda *path: np.asarray(  # noqa: E731
        variables[path[0]][path[1]][path[2]], np.float64
    )
    x, values = image.astype(np.float64), {}
    for name in LAYERS:
        if name in ("stage1layer0", "stage2layer0", "stage3layer0"):
            rows, columns = x.shape[0] // 2, x.shape[1] // 2
            x = x.reshape(rows, 2, columns, 2, -1).max((1, 3))
        kernel = get("params", f"{name}_conv", "kernel")
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        z = np.stack([correlate(padded, kernel[..., n], mode="valid")[..., 0] for n in range(kernel.shape[-1])], -1)
        z = z + get("params", f"{name}_conv", "bias")
        values[name] = z
        a = np.maximum(z, 0) if activation == "relu" else z
        a = a + nudge[1] if nudge and nudge[0] == name else a
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
    assert list(chosen) == LAYERS
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
def test_its_pre_activations_and_logits_are_those_by_hand(studied, data, activation):
    _, state = studied
    model = models.build(replace(SMALL.model, activation=activation), 10)
    inputs = data.train.rows(jnp.arange(3)).inputs
    logits, values = taps.read(model, state.variables, inputs, tuple(LAYERS))
    for i in range(3):
        by_hand, expected = forward(state.variables, np.asarray(inputs[i]), activation)
        np.testing.assert_allclose(logits[i], expected, rtol=1e-3, atol=1e-4)
        for name in LAYERS:
            np.testing.assert_allclose(values[name][i], by_hand[name], rtol=1e-3, atol=1e-4)


def test_training_normalises_by_the_batch_and_moves_running_statistics_by_a_hundredth(studied, data):
    study, state = studied
    batch = data.train.rows(jnp.arange(16))
    after, _, _ = training.train_step(study.model, study.optimizer, state, batch, {})
    pre = taps.read(study.model, state.variables, batch.inputs, ("stage0layer0",))[1]["stage0layer0"]
    activations = np.maximum(np.asarray(pre), 0)
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
def test_derivatives_at_positions_are_finite_differences_in_double_precision(studied, data, activation):
    study, state = studied
    model = models.build(replace(SMALL.model, activation=activation), 10)
    batch = data.train.rows(jnp.arange(2))
    found = taps.per_sample_gradients(
        model, state.variables, batch.inputs, batch.labels, study.sites, {"margin": margin}
    )["margin"]
    draw = np.random.default_rng(0)
    for i in range(2):
        image, label = np.asarray(batch.inputs[i]), int(batch.labels[i])
        for site, gradient in found.items():
            shape = gradient.shape[1:]
            for _ in range(6):
                where = tuple(draw.integers(0, size) for size in shape)
                nudge = np.zeros(shape)
                nudge[where] = 1e-6
                up, down = (
                    oracles.margin(forward(state.variables, image, activation, (site, sign * nudge))[1], label)
                    for sign in (1, -1)
                )
                scale = float(jnp.abs(gradient[i]).max())
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
    assert len(texts[0]) == len(texts[1]) > 12
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


# --- A study whose sites differ in samples ----------------------------------------------------------------------------


def after(study, state, data, epochs):
    """(state, tallies, states before each segment) after whole epochs."""
    counts, recorded = study.empty_counts(), data.train.rows(study.recorded)
    advance, before = recording.advancing(study), []
    state = jax.tree.map(jnp.copy, state)
    for epoch in range(epochs):
        plan = recording.plan_epoch(study, epoch)
        for steps, rest in plan.segments:
            before.append(jax.tree.map(jnp.copy, state))
            state, counts, losses = advance(state, counts, data.train, recorded, steps, rest)
            assert len(losses) == len(steps.ids) + (rest is not None)
        counts = recording.end_epoch(counts, plan.positions)
    return state, counts.tallies, before


def assert_tally(tally, signs):
    """`signs`: (recordings, samples, positions ..., neurons) as recorded by hand."""
    assert tally.positive.shape == signs.shape[1:]
    np.testing.assert_array_equal(tally.positive, (signs > 0).sum(0))
    np.testing.assert_array_equal(tally.negative, (signs < 0).sum(0))
    for pair in np.random.default_rng(0).permutation(list(np.ndindex(signs.shape[1:])))[:40]:
        assert int(tally.flips[tuple(pair)]) == oracles.tally(signs[(slice(None), *pair)])["flips"]


def test_samples_are_nested_and_a_chunk_differentiates_only_what_is_counted(studied):
    study, _ = studied
    assert [study.rows(site) for site in study.sites] == [10, 25, 40]
    assert recording.groups(study) == [
        recording.Group(0, 10, ("stage0layer0", "stage2layer2", "stage3layer2")),
        recording.Group(10, 25, ("stage2layer2", "stage3layer2")),
        recording.Group(25, 40, ("stage3layer2",)),
    ]
    assert study.stepwise
    last = {"margin": {"stage3layer2": study.empty_counts().tallies["margin"]["stage3layer2"]}}

    def convolutions(tallies):
        samples = datasets.Samples(jnp.zeros((40, 8, 8, 1), jnp.uint8), jnp.zeros(40, jnp.int32), 16)
        _, state = studied
        program = lowered(lambda t, s: recording.record_chunk(study, t, s, samples, 0, 5), tallies, state)
        return program.as_text().count("stablehlo.convolution")

    # Twelve forward; eleven back to the first site; none back to the last, which no convolution follows.
    assert convolutions(last) == 12
    assert convolutions(study.empty_counts().tallies) == 23


@pytest.fixture(scope="module")
def probed(studied, data):
    """What `after` found in one epoch of probing."""
    return after(*studied, data, 1)


def test_probe_counts_each_site_s_own_samples_before_each_segment(studied, data, probed):
    study, _ = studied
    _, tallies, before = probed
    recorded = data.train.rows(study.recorded)
    by_hand = jax.jit(
        lambda v: taps.per_sample_gradients(
            study.model, v, recorded.inputs, recorded.labels, study.sites, {"margin": margin}
        )["margin"]
    )
    signs = [jax.tree.map(np.sign, by_hand(state.variables)) for state in before]
    assert len(signs) == 3
    for site in study.sites:
        assert_tally(tallies["margin"][site], np.stack([s[site][: study.rows(site)] for s in signs]))


def test_loops_from_the_host_and_compiled_ones_count_the_same(studied, data, probed):
    study, state = studied
    one, counted, _ = probed
    other, compiled, _ = after(replace(study, stepwise=False), state, data, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one.params, other.params)
    for site in study.sites:
        differ = np.asarray(counted["margin"][site].positive != compiled["margin"][site].positive)
        assert differ.mean() < 2e-3  # the order of a sum


def test_online_counts_each_site_s_own_samples_of_augmented_batches(studied, data):
    study, state = studied
    config = replace(SMALL, record=replace(SMALL.record, mode="online"))
    study = replace(study, config=config)
    _, tallies, _ = after(study, state, data, 2)
    stream = random_stream(0, "augmentation")

    @jax.jit
    def step(state, batch):
        batch = augmentation.augmented(batch, jax.random.fold_in(stream, state.step))
        nudges = taps.zeros(study.sites, len(batch))
        state, _, found = training.train_step(study.model, study.optimizer, state, batch, nudges)
        return state, jax.tree.map(jnp.sign, found)

    signs = {site: {} for site in study.sites}
    for epoch in range(2):
        for part in (p for segment in recording.plan_epoch(study, epoch).segments for p in segment if p is not None):
            for ids in part.ids:
                state, found = step(state, data.train.rows(ids))
                for site, rows in found.items():
                    for row, i in enumerate(ids):
                        signs[site].setdefault(int(i), []).append(np.asarray(rows[row]))
    for site in study.sites:
        ids = study.recorded[: study.rows(site)]
        history = np.stack([np.stack(signs[site][int(i)]) for i in ids], axis=1)
        differ = [
            (np.asarray(t) != h).mean()
            for t, h in (
                (tallies["margin"][site].positive, (history > 0).sum(0)),
                (tallies["margin"][site].negative, (history < 0).sum(0)),
            )
        ]
        assert max(differ) < 2e-3


def test_watches_look_at_each_site_s_own_samples_at_their_positions(studied, data):
    study, state = studied
    close, wide = trajectories.watches(study)
    assert [close.shape(site) for site in study.sites] == [(3, 10, 2), (3, 25, 2), (3, 30, 2)]
    assert [wide.shape(site)[1] for site in study.sites] == [10, 20, 20]
    recorded = data.train.rows(study.recorded)
    found, accuracy = jax.jit(lambda s, r: trajectories.read(study, close, s, r))(state, recorded)
    logits, values = taps.read(study.model, state.variables, recorded.inputs[:30], tuple(study.sites))
    assert float(accuracy) == pytest.approx(float((logits.argmax(-1) == recorded.labels[:30]).mean()))
    for site, seen in found.items():
        assert seen.shape == close.shape(site)[1:]
        for s in range(len(seen)):
            flat = np.asarray(values[site][s]).reshape(-1, values[site].shape[-1])
            np.testing.assert_allclose(
                seen[s], flat[close.positions[site][s]][close.neurons[site]], rtol=1e-3, atol=1e-5
            )


def test_a_pattern_that_matches_no_site_is_refused(data):
    config = replace(SMALL, record=replace(SMALL.record, site_samples=("block*:5",)))
    with pytest.raises(InputError, match=r"site_samples has 'block\*:5', which is no site; sites are: .*stage0layer0"):
        planning.study(config, data)


# --- Whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("cnn")
    return run(SMALL, directory, data), directory


def run(config, directory, data, **options):
    with pytest.MonkeyPatch.context() as patch, results.opened(directory, config):
        patch.setattr(runs.datasets, "load", lambda *_: data)
        return runs.run(config, directory, **options)


def test_stopped_and_resumed_it_ends_in_the_same_bits(finished, data, tmp_path, monkeypatch):
    whole, directory = finished
    original, calls = recording.advancing, []

    def stopping(study):
        advance = original(study)

        def once(*arguments):
            calls.append(1)
            if len(calls) == 4:  # in the second epoch, after the step size dropped
                os.kill(os.getpid(), signal.SIGTERM)
            return advance(*arguments)

        return once

    monkeypatch.setattr(recording, "advancing", stopping)
    with pytest.raises(Interrupted):
        run(SMALL, tmp_path, data)
    again = run(SMALL, tmp_path, data)
    assert len(calls) == 6
    for one, other in zip(jax.tree.leaves(whole.state), jax.tree.leaves(again.state), strict=True):
        one, other = (
            jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in (one, other)
        )
        np.testing.assert_array_equal(one, other)
    for file in (directory / "trajectories").iterdir():
        assert file.read_bytes() == (tmp_path / "trajectories" / file.name).read_bytes()


def test_every_experiment_runs_on_it(finished, tmp_path):
    whole, directory = finished
    gradient_signs.report(whole)
    signs = results.read_dataset(directory / "gradient_signs.nc")
    assert list(signs.recorded_samples.values) == [10, 25, 40]
    assert list(signs.label.values) == ["stage0layer0-relu", "stage2layer2-relu", "stage3layer2-relu"]
    # Only one of four positions before the pooling has a derivative.
    assert float(signs.zero_share.sel(site="stage2layer2").item()) == pytest.approx(0.75, abs=0.01)
    one = replace(subjects.of_run(whole, tmp_path), sites={"stage2layer2": whole.study.sites["stage2layer2"]})
    codes = quantization.measure(one, (50.0,))
    assert codes.sizes["neuron_stage2layer2"] == 8
    assert np.isfinite(codes.accuracy).all()
    options = binarization_experiment.BinarizationOptions(centers=(45.0,))
    found = binarization_experiment.empty(one.config, one, options)
    binarization_experiment.sweep(one, found, tmp_path / "binarization.nc", options)
    assert np.isfinite(found.accuracy_by_seed).all()


# --- Retraining -------------------------------------------------------------------------------------------------------


def test_what_follows_a_cut_has_statistics_of_its_own_and_the_prefix_is_dropped(studied, data):
    study, state = studied
    one = data.train.rows(jnp.arange(1))
    above = {"stage0layer0": 11, "stage2layer2": 3, "stage3layer2": 0}
    for site, convolutions in above.items():
        cut = retraining.cut(SMALL, study.model, state.variables, one, study.sites[site])
        assert cut.convolutional == (convolutions > 0)
        start = retraining.initial(cut)
        kept = LAYERS[12 - convolutions :]
        assert set(start.params) == {"logits", f"{site}_norm"} | {f"{n}_{k}" for n in kept for k in ("conv", "norm")}
        assert set(start.statistics["batch_stats"]) == {f"{n}_norm" for n in (site, *kept)}
        bits = binarization.pack(jax.random.bernoulli(jax.random.key(0), shape=(8, *study.sites[site].shape)))
        seen = retraining.Binarized(bits, data.train.labels[:8])

        def step(start, seen, cut=cut):
            return retraining.step(cut, start, seen, jnp.arange(8))

        text = lowered(step, start, seen).compile().as_text()
        assert "8,8,8,1]" not in text, "an image"
        stepped, loss = jax.jit(step)(start, seen)
        assert jax.tree.structure(stepped) == jax.tree.structure(start)
        # The same loss from the whole network, its site's pre-activations replaced.
        whole = jax.tree.map(jnp.copy, dict(state.variables))
        for kind, part in (("params", start.params), ("batch_stats", start.statistics["batch_stats"])):
            whole[kind] = {**whole[kind], **part}
        values = binarization.unpack(bits, study.sites[site].shape)
        logits, _ = taps.edited(study.model, pre={site: lambda _, v=values: v})(
            whole, data.train.rows(jnp.arange(8)).inputs, train=True, mutable=["batch_stats"]
        )
        expected = nn.softplus(margin(logits, data.train.labels[:8])).mean()
        assert float(loss) == pytest.approx(float(expected), rel=1e-4)
        if not convolutions:
            assert "convolution" not in text


# --- Real images ------------------------------------------------------------------------------------------------------


def test_cifar10_is_read_as_it_was_prepared(cifar10):
    assert (len(cifar10.train), len(cifar10.test), cifar10.classes) == (50_000, 10_000, 10)
    assert cifar10.train.images.shape == (50_000, 32, 32, 3)
    assert cifar10.train.images.dtype == jnp.uint8
    np.testing.assert_array_equal(np.bincount(cifar10.train.labels), 5_000)
    # The data set's known means of red, green and blue.
    mean = np.asarray(cifar10.test.images, np.float64).mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.494, 0.485, 0.450], atol=0.005)
