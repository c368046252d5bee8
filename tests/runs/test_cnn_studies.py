"""Studies of the convolutional network, whose sites differ in samples: recorded, stopped, cut; its own images."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles
import small_cnn
from neuron_mech import runs, taps, training
from neuron_mech.cluster import devices
from neuron_mech.codes import retraining, windowing
from neuron_mech.config import random_stream
from neuron_mech.errors import InputError
from neuron_mech.recording.design import Group, Moment, Samples
from neuron_mech.recording.online import Online
from neuron_mech.runs import planning, trajectories
from neuron_mech.runs import study as studies
from neuron_mech.taps.objectives import margin
from neuron_mech.training import augmentation
from small_cnn import LAYERS, SMALL, lowered

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def data(digits):
    """With nothing blank: of equal values in a pooling window, rounding would choose the largest."""
    data, draw = small_cnn.few(digits), np.random.default_rng(3)

    def noisy(samples):
        images = np.asarray(samples.images)
        return replace(
            samples, images=jnp.asarray(np.where(images, images, draw.integers(1, 6, images.shape)), "uint8")
        )

    return replace(data, train=noisy(data.train), test=noisy(data.test))


@pytest.fixture(scope="module")
def studied(data):
    return small_cnn.studied(data)


# --- A study whose sites differ in samples ----------------------------------------------------------------------------


def designed(study, **changes):
    """The study with another design."""
    return replace(study, plan=replace(study.plan, design=replace(study.design, **changes)))


def after(study, state, data, epochs):
    """(state, tallies, states before each segment) after whole epochs."""
    recorder, advance, before = studies.recorder(study), runs.advancing(study), []
    state, train = devices.replicate((jax.tree.map(jnp.copy, state), data.train), study.design.mesh)  # as a run does
    for epoch in range(epochs):
        for ids, rest in runs.plan_epoch(study, epoch):
            before.append(jax.tree.map(jnp.copy, state))
            state, recorder, losses = advance(state, recorder, train, ids, rest)
            assert len(losses) == len(ids) + (rest is not None)
        recorder = recorder.end_epoch() if isinstance(recorder, Online) else recorder
    return state, studies.tallies(study, recorder.state), before


def assert_tally(tally, signs):
    """`signs`: (recordings, samples, positions ..., neurons) as recorded by hand."""
    assert tally.positive.shape == signs.shape[1:]
    np.testing.assert_array_equal(tally.positive, (signs > 0).sum(0))
    np.testing.assert_array_equal(tally.negative, (signs < 0).sum(0))
    flips = np.asarray(tally.flips)
    for pair in np.random.default_rng(0).permutation(list(np.ndindex(signs.shape[1:])))[:40]:
        assert flips[tuple(pair)] == oracles.tally(signs[(slice(None), *pair)])["flips"]


def test_samples_are_nested_and_a_chunk_differentiates_only_what_is_counted(studied):
    study, _ = studied
    assert list(study.design.rows.values()) == [10, 25, 40]
    assert study.design.groups() == [
        Group(0, 10, ("stage0layer0", "stage2layer0", "stage3layer0")),
        Group(10, 25, ("stage2layer0", "stage3layer0")),
        Group(25, 40, ("stage3layer0",)),
    ]
    assert study.design.stepwise
    last = {"margin": {"stage3layer0": study.design.empty()["margin"]["stage3layer0"]}}

    def convolutions(tallies):
        samples = Samples(jnp.zeros((40, 8, 8, 1), jnp.uint8), jnp.zeros(40, jnp.int32), {})
        moment = Moment(studied[1].variables, 0)
        program = lowered(lambda t, m: study.design.record_chunk(t, samples, Moment(*m), 0, 5), tallies, tuple(moment))
        return program.as_text().count("stablehlo.convolution")

    # Four forward; three back to the first site; none back to the last, which no convolution follows.
    assert convolutions(last) == 4
    assert convolutions(study.design.empty()) == 7


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
        assert_tally(tallies["margin"][site], np.stack([s[site][: study.design.rows[site]] for s in signs]))


def test_loops_from_the_host_and_compiled_ones_count_the_same(studied, data, probed):
    study, state = studied
    one, counted, _ = probed
    other, compiled, _ = after(designed(study, stepwise=False), state, data, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one.params, other.params)
    for site in study.sites:
        differ = np.asarray(counted["margin"][site].positive != compiled["margin"][site].positive)
        assert differ.mean() < 2e-3  # the order of a sum


def test_online_counts_each_site_s_own_samples_of_augmented_batches(studied, data):
    study, state = studied
    study, _ = planning.study(replace(SMALL, record=replace(SMALL.record, mode="online")), data)
    _, tallies, _ = after(study, state, data, 2)
    stream = random_stream(0, "augmentation")

    @jax.jit
    def step(state, batch):
        batch = augmentation.augmented(batch, jax.random.fold_in(stream, state.step))
        perturbations = taps.zeros(study.sites, len(batch))
        state, _, found = training.train_step(study.model, study.optimizer, state, batch, perturbations)
        return state, jax.tree.map(jnp.sign, found)

    signs = {site: {} for site in study.sites}
    for epoch in range(2):
        for part in (p for segment in runs.plan_epoch(study, epoch) for p in segment if p is not None):
            for ids in part:
                state, found = step(state, data.train.rows(ids))
                for site, rows in found.items():
                    for row, i in enumerate(ids):
                        signs[site].setdefault(int(i), []).append(np.asarray(rows[row]))
    for site in study.sites:
        ids = study.recorded[: study.design.rows[site]]
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


# --- Retraining -------------------------------------------------------------------------------------------------------


def test_what_follows_a_cut_has_statistics_of_its_own_and_the_prefix_is_dropped(studied, data):
    study, state = studied
    one = data.train.rows(jnp.arange(1))
    above = {"stage0layer0": 3, "stage2layer0": 1, "stage3layer0": 0}
    for site, convolutions in above.items():
        cut = retraining.cut(SMALL, study.model, state.variables, one, study.sites[site])
        assert cut.convolutional == (convolutions > 0)
        start = retraining.initial(cut)
        kept = LAYERS[4 - convolutions :]
        assert set(start.params) == {"logits", f"{site}_norm"} | {f"{n}_{k}" for n in kept for k in ("conv", "norm")}
        assert set(start.statistics["batch_stats"]) == {f"{n}_norm" for n in (site, *kept)}
        bits = windowing.pack(jax.random.bernoulli(jax.random.key(0), shape=(8, *study.sites[site].shape)))
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
        values = windowing.unpack(bits, study.sites[site].shape)
        edited = taps.edited(study.model, pre={site: lambda _, v=values: v})
        apply = jax.jit(lambda v, x, edited=edited: edited(v, x, train=True, mutable=["batch_stats"]))
        logits, _ = apply(whole, data.train.rows(jnp.arange(8)).inputs)
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
