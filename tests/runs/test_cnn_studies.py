"""Studies of the convolutional network, whose sites differ in samples: recorded, stopped, cut; its own images."""

import os
import signal
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import oracles
import small_cnn
from experiments import binarization as binarization_experiment
from experiments import gradient_signs, learning_dynamics, quantization
from neuron_mech import runs, store, taps, training
from neuron_mech.codes import retraining, windowing
from neuron_mech.config import random_stream
from neuron_mech.errors import InputError, Interrupted
from neuron_mech.recording.design import Group, Moment, Samples
from neuron_mech.recording.online import Online
from neuron_mech.runs import loop, planning, subjects, trajectories
from neuron_mech.runs import study as studies
from neuron_mech.taps.objectives import margin
from neuron_mech.training import augmentation
from small_cnn import LAYERS, SMALL, lowered

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def data(digits):
    return small_cnn.few(digits)


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
    state = jax.tree.map(jnp.copy, state)
    for epoch in range(epochs):
        for ids, rest in runs.plan_epoch(study, epoch):
            before.append(jax.tree.map(jnp.copy, state))
            state, recorder, losses = advance(state, recorder, data.train, ids, rest)
            assert len(losses) == len(ids) + (rest is not None)
        recorder = recorder.end_epoch() if isinstance(recorder, Online) else recorder
    return state, studies.tallies(study, recorder.state), before


def assert_tally(tally, signs):
    """`signs`: (recordings, samples, positions ..., neurons) as recorded by hand."""
    assert tally.positive.shape == signs.shape[1:]
    np.testing.assert_array_equal(tally.positive, (signs > 0).sum(0))
    np.testing.assert_array_equal(tally.negative, (signs < 0).sum(0))
    for pair in np.random.default_rng(0).permutation(list(np.ndindex(signs.shape[1:])))[:40]:
        assert int(tally.flips[tuple(pair)]) == oracles.tally(signs[(slice(None), *pair)])["flips"]


def test_samples_are_nested_and_a_chunk_differentiates_only_what_is_counted(studied):
    study, _ = studied
    assert list(study.design.rows.values()) == [10, 25, 40]
    assert study.design.groups() == [
        Group(0, 10, ("stage0layer0", "stage2layer2", "stage3layer2")),
        Group(10, 25, ("stage2layer2", "stage3layer2")),
        Group(25, 40, ("stage3layer2",)),
    ]
    assert study.design.stepwise
    last = {"margin": {"stage3layer2": study.design.empty()["margin"]["stage3layer2"]}}

    def convolutions(tallies):
        samples = Samples(jnp.zeros((40, 8, 8, 1), jnp.uint8), jnp.zeros(40, jnp.int32), {})
        moment = Moment(studied[1].variables, 0)
        program = lowered(lambda t, m: study.design.record_chunk(t, samples, Moment(*m), 0, 5), tallies, tuple(moment))
        return program.as_text().count("stablehlo.convolution")

    # Twelve forward; eleven back to the first site; none back to the last, which no convolution follows.
    assert convolutions(last) == 12
    assert convolutions(study.design.empty()) == 23


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


# --- Whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("cnn")
    return run(SMALL, directory, data), directory


def run(config, directory, data, **options):
    with pytest.MonkeyPatch.context() as patch, store.opened(directory, config):
        patch.setattr(loop.datasets, "load", lambda *_: data)
        return runs.run(config, directory, **options)


def test_stopped_and_resumed_it_ends_in_the_same_bits(finished, data, tmp_path, monkeypatch):
    whole, directory = finished
    original, calls = loop.advancing, []

    def stopping(study):
        advance = original(study)

        def once(*arguments):
            calls.append(1)
            if len(calls) == 4:  # in the second epoch, after the step size dropped
                os.kill(os.getpid(), signal.SIGTERM)
            return advance(*arguments)

        return once

    monkeypatch.setattr(loop, "advancing", stopping)
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


def test_every_experiment_runs_on_it(finished, tmp_path, capsys):
    whole, directory = finished
    gradient_signs.report(whole)
    signs = store.read_dataset(directory / "gradient_signs.nc")
    assert list(signs.recorded_samples.values) == [10, 25, 40]
    assert list(signs.label.values) == ["stage0layer0-relu", "stage2layer2-relu", "stage3layer2-relu"]
    # Only one of four positions before the pooling has a derivative.
    assert float(signs.zero_share.sel(site="stage2layer2").item()) == pytest.approx(0.75, abs=0.01)
    one = replace(subjects.of_run(whole, tmp_path), sites={"stage2layer2": whole.study.sites["stage2layer2"]})
    codes = quantization.measure(one, (50.0,))
    assert codes.neuron.values.tolist() == [("stage2layer2", index) for index in range(8)]
    assert np.isfinite(codes.accuracy).all()
    capsys.readouterr()
    for form, said in ((None, "one after another on a cpu, convolutions as they are"), ("patches", "as patches")):
        options = binarization_experiment.BinarizationOptions(centers=(45.0,), form=form)
        found = binarization_experiment.empty(one.config, one, options)
        binarization_experiment.sweep(one, found, tmp_path / "binarization.nc", options)
        assert np.isfinite(found.accuracy_by_seed).all()
        out = capsys.readouterr().out
        assert out.count("stage2layer2-relu: windows one after another") == 1
        assert said in out


def test_the_separation_of_position_means_is_scikit_learn_s_of_single_images(finished):
    whole, _ = finished
    study, variables = whole.study, whole.state.train.variables
    found = learning_dynamics.dataset(whole)

    @jax.jit
    def one_image(image):
        _, taken = study.model.apply(variables, image[None], train=False, mutable=["intermediates"])
        return taken["intermediates"]

    for site, samples in {"stage0layer0": 10, "stage2layer2": 20, "stage3layer2": 20}.items():
        images = whole.dataset.train.rows(study.recorded[:samples]).inputs
        values = []
        for image in images:
            (value,) = one_image(image)[site]["pre_activation"]
            values.append(np.asarray(value, np.float64).mean((0, 1, 2)))
        tally = whole.tallies["margin"][site]
        lead = (np.asarray(tally.positive, int) - np.asarray(tally.negative, int))[:samples].sum((1, 2))
        auc = found.position_mean_auc.sel(neuron_site=site).values
        assert np.isfinite(auc).any()
        for neuron, own in enumerate(lead.T):
            values_of = np.stack(values)[own != 0, neuron]
            expected = roc_auc_score(own[own != 0] < 0, values_of) if len(set(np.sign(own[own != 0]))) == 2 else np.nan
            np.testing.assert_allclose(auc[neuron], expected, atol=0.02)  # one pair of 100 in another order


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
