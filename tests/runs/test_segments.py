"""Recording in its three modes, against tallies kept one sample at a time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from at_hand import at_hand
from neuron_mech import runs, taps, training
from neuron_mech.cluster import devices
from neuron_mech.config import PRESETS, Config, Data, Model, Record, Train
from neuron_mech.errors import InputError
from neuron_mech.recording.online import Online
from neuron_mech.runs import planning
from neuron_mech.runs import study as studies
from neuron_mech.taps.objectives import margin
from neuron_mech.training.datasets import Dataset, Samples

pytestmark = pytest.mark.long

SMALL = Config(
    "digits",
    model=Model(width=1 / 32),
    train=Train(batch_size=16, epochs=3),
    record=Record(every=2, samples=70, chunk=32),
)


def few(digits, count=90):
    """The first digits alone: five full batches of 16, and a last one of 10."""
    return replace(digits, train=digits.train.rows(jnp.arange(count)))


def after(config, dataset, epochs):
    """(study, state, tallies in canonical order, states before each segment, plans) after whole epochs."""
    study, state = planning.study(config, dataset)
    state, train = devices.replicate((state, dataset.train), study.design.mesh)  # as a run does
    recorder, advance = studies.recorder(study), runs.advancing(study)
    before = []
    for epoch in range(epochs):
        for ids, rest in runs.plan_epoch(study, epoch):
            before.append(jax.tree.map(jnp.copy, state))  # the segment takes over its buffers
            state, recorder, _ = advance(state, recorder, train, ids, rest)
        recorder = recorder.end_epoch() if isinstance(recorder, Online) else recorder
    return study, state, {} if recorder is None else studies.tallies(study, recorder.state), before


@pytest.fixture(scope="module")
def even(digits):
    """Six full batches of 16, where a smaller last one is of no matter: their segments are one program, not two."""
    return few(digits, 96)


@pytest.fixture(scope="module")
def plain(even):
    """What `after` found in an epoch of SMALL."""
    return after(SMALL, even, 1)


def assert_equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_tally(tally, signs, rows):
    """`signs`: (recordings, samples, neurons) as recorded by hand."""
    counts = oracles.counts(tally)
    for row in range(rows):
        for neuron in range(signs.shape[-1]):
            by_hand = oracles.tally(signs[:, row, neuron])
            assert {name: of[row, neuron] for name, of in counts.items()} == {name: by_hand[name] for name in counts}


def test_the_paper_s_counts_of_recordings():
    sizes = {"mnist-relu": 60_000, "mnist-sigmoid": 60_000, "cifar10-relu": 50_000, "cifar10-linear": 50_000}
    counts = {}
    for name, size in (sizes | {"digits": 1_437}).items():
        shape = Samples(jnp.zeros((size, 8, 8, 1), jnp.uint8), jnp.zeros(size, jnp.int32), 255)
        config = replace(PRESETS[name], model=replace(PRESETS[name].model, width=1 / 64))
        study, _ = planning.study(config, Dataset(name, shape, shape, 10))
        counts[name] = (study.batches, study.segments_per_epoch, study.recordings)
        if name.startswith("cifar10"):
            assert dict(study.design.rows) == {
                "stage0layer0": 500,
                "stage2layer0": 500,
                "stage2layer2": 5_000,
                "stage3layer2": 10_000,
            }
    assert counts["mnist-relu"] == counts["mnist-sigmoid"] == (469, 47, 2350)
    assert counts["cifar10-relu"] == counts["cifar10-linear"] == (1563, 16, 1600)
    assert counts["digits"] == (45, 9, 450)


@pytest.fixture(scope="module")
def base(digits):
    return planning.study(SMALL, few(digits))[0]


@given(
    samples=st.integers(1, 200),
    batch=st.integers(1, 64),
    every=st.integers(1, 9),
    share=st.floats(0.01, 1),
    fewer=st.integers(1, 100),
    epoch=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_s_plan_trains_on_every_sample_and_finds_every_recorded_row(
    base, samples, batch, every, share, fewer, epoch
):
    batch = min(batch, samples)
    record = Record(mode="online", every=every, site_samples=(f"dense1:{fewer}",))
    config = Config("digits", train=Train(batch_size=batch), record=record)
    recorded = runs.random_ids(config, samples, max(1, int(share * samples)))
    rows = {"dense1": min(fewer, len(recorded)), "dense2": len(recorded)}
    design = replace(base.design, rows=rows)
    study = replace(base, config=config, samples=samples, plan=replace(base.plan, rows=recorded, design=design))
    plan = runs.plan_epoch(study, epoch)
    row_of = {int(sample): row for row, sample in enumerate(recorded)}
    seen = []
    for ids, rest in plan:
        assert len(ids) + (rest is not None) <= every
        for one in [*ids, *([] if rest is None else rest)]:
            # At each site, the batch's own samples come first.
            for count in rows.values():
                here = [row_of.get(int(sample), samples) < count for sample in one]
                assert here == sorted(here, reverse=True)
            seen += list(one)
    assert sorted(seen) == list(range(samples))
    assert len(plan) == -(-study.batches // every)


@pytest.mark.parametrize("derivative", ["activation", "pre_activation"])
def test_probe_counts_every_recorded_sample_before_each_segment(digits, derivative):
    config = replace(SMALL, record=replace(SMALL.record, derivative=derivative))
    data = few(digits)
    study, _, tallies, before = after(config, data, 2)
    assert len(before) == 6  # 6 batches an epoch, at batches 0, 2, 4
    for site in ("dense1", "dense2"):
        signs = np.stack(
            [
                [
                    oracles.MLP(state.params, "relu").margin_gradients(np.asarray(x), int(y))[derivative][site]
                    for x, y in zip(*(lambda s: (s.inputs, s.labels))(data.train.rows(study.recorded)), strict=True)
                ]
                for state in before
            ]
        )
        assert_tally(tallies["margin"][site], np.sign(np.where(np.abs(signs) < 1e-9, 0, signs)), 70)


def test_chunks_do_not_change_what_is_recorded(even, plain):
    whole = after(replace(SMALL, record=replace(SMALL.record, chunk=1000)), even, 1)[2]
    assert_equal(whole, plain[2])  # 32, 32, and a last chunk of 6


@pytest.mark.parametrize("samples", [70, "all"])
def test_online_counts_the_training_steps_own_gradients(digits, samples):
    config = replace(SMALL, record=replace(SMALL.record, mode="online", samples=samples))
    data = few(digits)
    study, _, tallies, _ = after(config, data, 3)
    # The same steps once more, one at a time, with a dictionary for a tally.
    _, state = planning.study(config, data)
    step = jax.jit(
        lambda state, batch, perturbations: training.train_step(
            study.model, study.optimizer, state, batch, perturbations
        )
    )
    signs = {site: {} for site in study.sites}
    for epoch in range(3):
        for part in (p for segment in runs.plan_epoch(study, epoch) for p in segment if p is not None):
            for ids in part:
                batch = data.train.rows(ids)
                state, _, found = step(state, batch, taps.zeros(study.sites, len(ids)))
                for site, gradient in found.items():
                    for row, i in enumerate(ids):
                        signs[site].setdefault(int(i), []).append(np.sign(gradient[row]))
    for site in study.sites:
        history = np.stack([np.stack(signs[site][int(i)]) for i in study.recorded], axis=1)
        assert_tally(tallies["margin"][site], history, len(study.recorded))
        assert tallies["margin"][site].positive.dtype == np.int8  # 3 recordings a sample


def test_probe_train_has_dropout_on_and_leaves_no_trace_in_the_training(even):
    probe_train = replace(SMALL, record=replace(SMALL.record, mode="train"))
    study, trained, tallies, _ = after(probe_train, even, 1)
    _, alone, _, _ = after(replace(SMALL, record=replace(SMALL.record, mode="none")), even, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), trained.params, alone.params)
    # Dropout of 1/2 makes half of all activation derivatives exactly zero; without it none is.
    zero = 1 - float(tallies["margin"]["dense2"].recorded.sum()) / (study.segments_per_epoch * 70 * 16)
    assert 0.4 < zero < 0.6


def test_chosen_neurons_are_columns_of_all(even, plain):
    some = replace(SMALL, record=replace(SMALL.record, neurons=5))
    study, _, tallies, _ = after(some, even, 1)
    all_tallies = plain[2]
    for site, chosen in study.design.neurons.items():
        assert len(chosen) == len(set(chosen)) == 5
        of_all = all_tallies["margin"][site].part((slice(None), chosen))
        assert_equal(tallies["margin"][site].part(slice(None)), of_all)


def test_objectives_are_compared_on_the_same_passes(even):
    compared = replace(SMALL, record=replace(SMALL.record, compare_objectives=("cross_entropy",)))
    tallies = after(compared, even, 2)[2]
    alone = after(replace(SMALL, record=replace(SMALL.record, objective="cross_entropy")), even, 2)[2]
    assert_equal(tallies["cross_entropy"], alone["cross_entropy"])
    # An untrained network is unsure of everything, where all objectives agree.
    for site in ("dense1", "dense2"):
        np.testing.assert_array_equal(tallies["margin"][site].positive, tallies["cross_entropy"][site].positive)


def test_smaller_choices_of_samples_are_nested():
    config = SMALL
    many = runs.random_ids(config, 1000, "all")
    np.testing.assert_array_equal(runs.random_ids(config, 1000, 30), many[:30])
    assert sorted(many) == list(range(1000))


def test_exact_signs_at_scale_against_double_precision():
    """On real images and a network trained until it is sure, the margin's float32 signs are float64's."""
    config = replace(
        PRESETS["mnist-relu"], train=replace(PRESETS["mnist-relu"].train, epochs=1), record=Record(mode="none")
    )
    data = at_hand(Data("mnist", train_images=6000, test_images=100))
    study, state, _, _ = after(config, data, 1)
    samples = data.train.rows(jnp.arange(100))
    found = taps.per_sample_gradients(
        study.model, state.variables, samples.inputs, samples.labels, study.sites, {"margin": margin}
    )["margin"]
    oracle = oracles.MLP(state.params, "relu")
    for site in study.sites:
        exact = np.stack(
            [
                oracle.margin_gradients(np.asarray(samples.inputs[i]), int(samples.labels[i]))["activation"][site]
                for i in range(100)
            ]
        )
        assert (np.sign(found[site]) != np.sign(exact)).mean() < 1e-4


# --- When, and in what numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "every", "stepwise"), [(90, 2, False), (90, 2, True), (81, 5, False), (81, 5, True)])
def test_a_recording_after_the_update_is_of_the_next_step_s_parameters(digits, monkeypatch, count, every, stepwise):
    """Of 81 samples the last segment is one batch of a single sample: it too is recorded after its step."""
    monkeypatch.setattr(training, "stepwise", lambda _: stepwise)
    dataset = few(digits, count)
    config = replace(SMALL, train=replace(SMALL.train, epochs=1), record=replace(SMALL.record, every=every))
    config = replace(config, record=replace(config.record, when="after"), model=replace(SMALL.model, dropout=0.0))
    study, state, tallies, _ = after(config, dataset, 1)
    each = replace(config, record=replace(config.record, every=1, when="before"))
    _, last, _, single = after(each, dataset, 1)
    assert_equal(state.params, last.params)  # recording changes nothing
    recorded = dataset.train.rows(study.recorded)
    steps = range(1, study.batches + 1, every)
    signs = {site: [] for site in study.sites}
    for step in steps:
        params = single[step].params if step < len(single) else last.params
        network = oracles.MLP(params, "relu")
        rows = [
            network.margin_gradients(np.asarray(x), int(y))["activation"]
            for x, y in zip(recorded.inputs, recorded.labels, strict=True)
        ]
        for site in study.sites:
            signs[site].append(np.sign([row[site] for row in rows]))
    for site, of in signs.items():
        assert_tally(tallies["margin"][site], np.array(of), 20)


def test_what_float16_makes_of_a_share_in_a_batch_s_mean(digits):
    config = replace(
        SMALL, record=replace(SMALL.record, objective="keras2017", compare_objectives=("keras2017-float16",))
    )
    study, state = planning.study(config, few(digits))
    design, some = study.design, digits.train.rows(study.recorded[:8])
    found = design.gradients(state.variables, some.inputs, some.labels)
    for site in study.sites:
        exact = np.asarray(found["keras2017"][site], np.float64)
        scaled = exact * 1e-6  # as small as they are once a network is sure
        stored = np.asarray(design.stored("keras2017-float16", jnp.asarray(scaled, jnp.float32)))
        assert stored.dtype == np.float16
        np.testing.assert_array_equal(stored, (scaled.astype(np.float32) * np.float32(1 / 16)).astype(np.float16))
        lost = (stored == 0) & (scaled != 0)
        # Half of the smallest float16 there is, 2 ** -24, is what rounds to nothing.
        np.testing.assert_array_equal(lost, (np.abs(scaled) / 16 <= 2.0**-25) & (scaled != 0))
        assert lost.any()
        np.testing.assert_array_equal(design.stored("keras2017", found["keras2017"][site]), found["keras2017"][site])


def test_recording_after_the_update_is_not_for_the_update_s_own_gradients():
    with pytest.raises(InputError, match=r"record\.when is after"):
        Config("digits", record=Record(mode="online", when="after"))
