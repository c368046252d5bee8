"""Codes inside a network: evaluation of many at once, sources, and retraining above a cut."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

from experiments import binarization as binarization_experiment
from experiments import quantization as quantization_experiment
from experiments import readouts
from experiments.command_line import Session
from neuron_mech import (
    binarization,
    evaluation,
    planning,
    quantization,
    results,
    retraining,
    sources,
    subjects,
    taps,
)
from neuron_mech.errors import InputError, RunError
from neuron_mech.presets import PRESETS, Model
from neuron_mech.taps import Site

CONFIG = replace(PRESETS["digits"], model=Model(width=1 / 16), train=replace(PRESETS["digits"].train, epochs=3))


@pytest.fixture(scope="module")
def studied(digits):
    study, state = planning.study(CONFIG, digits)
    return study, state.variables


def codes_at(study, variables, digits, site, ranks=(20, 50, 80)):
    return quantization.at_ranks(jnp.asarray(values_at(study, variables, digits, site)), ranks)


def values_at(study, variables, digits, site):
    source, key = sources.network(study.model, variables, study.sites), jax.random.key(0)
    return sources.chosen_values(source, digits.train, key, {site: key})[site].values


# --- Evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["dense1", "dense2"])
@pytest.mark.parametrize("rows", [4000, 77])
def test_many_codes_at_once_score_as_one_at_a_time_by_hand(studied, digits, site, rows):
    study, variables = studied
    codes = codes_at(study, variables, digits, site)
    trials = {
        "codes": evaluation.Trial(site, quantization.quantized, codes, jax.random.key(0)),
        "one": evaluation.Trial(
            site, quantization.quantized, jax.tree.map(lambda leaf: leaf[1:2], codes), jax.random.key(0)
        ),
        "none": evaluation.Trial(site, evaluation.unchanged, jnp.zeros(1), jax.random.key(0)),
    }
    scores = evaluation.accuracies(study.model, variables, study.sites, trials, digits.test, rows=rows)
    found = scores["codes"]
    assert scores["one"][0] == found[1]
    original, chance = evaluation.as_it_is(study.model, variables, study.sites, digits.test, 10)
    assert scores["none"][0] == original
    assert chance == np.bincount(np.asarray(digits.test.labels)).max() / 360
    params = variables["params"]
    affine = lambda x, name: np.asarray(x) @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])  # noqa: E731
    for index in range(3):
        code = jax.tree.map(lambda leaf, i=index: leaf[i], codes)
        cut = lambda z, c=code: np.where(z > np.asarray(c.threshold), np.asarray(c.high), np.asarray(c.low))  # noqa: E731
        z = affine(digits.test.inputs.reshape(360, -1), "affine1")
        z = affine(np.maximum(cut(z) if site == "dense1" else z, 0), "affine2")
        logits = affine(np.maximum(cut(z) if site == "dense2" else z, 0), "logits")
        assert found[index] == pytest.approx((logits.argmax(-1) == np.asarray(digits.test.labels)).mean(), abs=1 / 360)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_a_label_among_the_largest_is_right(seed, top):
    """Against a sort, with ties (where the first is larger, as for argmax); and never where nothing is a number."""
    draw = np.random.default_rng(seed)
    logits, labels = draw.integers(0, 4, (50, 6)).astype(np.float32), draw.integers(0, 6, 50).astype(np.int32)
    found = np.asarray(evaluation.right(jnp.asarray(logits), jnp.asarray(labels), top))
    best = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    np.testing.assert_array_equal(found, (best == labels[:, None]).any(1))
    if top == 1:
        np.testing.assert_array_equal(found, logits.argmax(1) == labels)
    assert not evaluation.right(jnp.full((50, 6), jnp.nan), jnp.asarray(labels), top).any()


def test_what_precedes_the_site_is_not_run_for_codes(studied, digits):
    """In the compiled program: products with what follows the site alone, with an axis for the codes."""
    study, variables = studied
    codes = codes_at(study, variables, digits, "dense2", tuple(range(0, 101, 10)))
    inputs = digits.test.inputs[:50]

    def program(codes):
        def outputs(variables, threshold, low, high, values):
            code = quantization.TwoValues(threshold, low, high)
            trial = evaluation.Trial("dense2", quantization.quantized, code, jax.random.key(0))
            return evaluation.logits_of_codes(trial, study.model, variables, inputs, values)

        lowered = jax.jit(outputs).lower(variables, codes.threshold, codes.low, codes.high, jnp.zeros((50, 32)))
        return lowered.compile().as_text()

    text = program(codes)
    assert "[32,10]" in text  # the last layer's kernel
    assert "[64,32]" not in text  # the first layer's
    assert "[32,32]" not in text  # the second layer's, whose product is the site's value


# --- Sources ----------------------------------------------------------------------------------------------------------


def test_chosen_values_are_all_where_they_are_few(studied, digits):
    study, variables = studied
    source, key = sources.network(study.model, variables, study.sites), jax.random.key(0)
    found = sources.chosen_values(source, digits.train, key, dict.fromkeys(study.sites, key))
    assert list(found) == ["dense1", "dense2"]  # both from one pass
    for name, (values, labels) in found.items():
        np.testing.assert_allclose(values, source(digits.train.inputs)[name], atol=1e-5)
        np.testing.assert_array_equal(labels, digits.train.labels)


def test_chosen_values_are_a_random_part_where_they_are_many(digits):
    """Positions count as values; each chosen value is one of its own sample's."""

    def source(inputs):  # 4 positions of 3 neurons: the sample's sum of pixels, and the position in eighths
        total = (16 * inputs.sum((1, 2, 3))).round()
        place = jnp.arange(4.0).reshape(1, 2, 2, 1) / 8
        here = jnp.tile(total[:, None, None, None], (1, 2, 2, 1)) + jnp.tile(place, (len(inputs), 1, 1, 1))
        return {"site": jnp.tile(here, (1, 1, 1, 3)), "other": here}

    def chosen(limit):
        keys = {"site": jax.random.key(1), "other": jax.random.key(2)}
        return sources.chosen_values(Partial(source), digits.train, jax.random.key(0), keys, limit, chunk=500)

    found = chosen(3000)
    values, labels = found["site"]
    assert (found["other"].values[:, 0] % 1 != values[:, 0] % 1).any()  # each site has places of its own
    assert values.shape == (2 * 1437, 3)  # two of four positions each
    np.testing.assert_array_equal(np.floor(values[:, 0]), np.repeat(np.asarray(digits.train.images).sum((1, 2, 3)), 2))
    places = (values[:, 0] % 1 * 8).round().astype(int).reshape(-1, 2)
    assert (places[:, 0] != places[:, 1]).all()
    assert set(places.ravel()) == {0, 1, 2, 3}
    few = chosen(100)
    assert few["site"].values.shape == (100, 3)
    np.testing.assert_array_equal(*(np.floor(few[name].values[:, 0]) for name in few))  # but all of the same samples
    assert len(labels) == len(values)


def test_a_projection_sees_each_block_through_the_same_weights():
    image = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))

    def projected(*shape):
        sites = {"s": Site("s", "Neurons", shape, jnp.float32)}
        source = sources.projection({"s": jax.random.key(1)}, (8, 8, 3), sites)
        return lambda images: source(images)["s"]

    flat = projected(5)
    assert flat(image).shape == (2, 5)
    placed = projected(2, 2, 5)
    moved = jnp.roll(image, 4, axis=1)
    np.testing.assert_allclose(placed(moved)[:, 1, 0], placed(image)[:, 0, 0], atol=1e-5)
    with pytest.raises(InputError, match="do not divide"):
        projected(3, 3, 5)


# --- Retraining -------------------------------------------------------------------------------------------------------


def test_a_cut_knows_what_follows_the_site(studied, digits):
    study, variables = studied
    one = digits.train.rows(jnp.arange(1))
    for site, above in (("dense1", {"affine2", "logits"}), ("dense2", {"logits"})):
        cut = retraining.cut(CONFIG, study.model, variables, one, study.sites[site])
        assert set(retraining.initial(cut).params) == above
    stock = taps.sites(study.model, variables, one.inputs)["affine2"]
    assert set(retraining.initial(retraining.cut(CONFIG, study.model, variables, one, stock)).params) == {"logits"}
    with pytest.raises(InputError, match="is no site"):
        taps.below(study.model, variables, one.inputs, "dense9")


def windows_at(study, variables, digits, site, centers=(5, 45)):
    source = sources.network(study.model, variables, study.sites)
    windows = binarization.at_centers(values_at(study, variables, digits, site), centers, 10.0)
    look = retraining.binarizer(source, site)
    return look(windows, digits.train), look(windows, digits.test), windows, source


def test_bits_are_what_the_windows_let_through(studied, digits):
    study, variables = studied
    train, _, windows, source = windows_at(study, variables, digits, "dense1")
    assert train.bits.shape == (2, 1437, 4)  # 32 neurons
    values = np.asarray(source(digits.train.inputs)["dense1"])
    inside = (values >= np.asarray(windows.lower[1])) & (values < np.asarray(windows.upper[1]))
    unpacked = np.asarray(binarization.unpack(train.bits[1], (32,)))
    assert (unpacked != inside).mean() < 1e-4  # chunks of other sizes may round an edge differently


@pytest.mark.parametrize(
    ("activation", "replaces", "passed_on"),
    [
        ("relu", "pre_activation", (0.0, 1.0)),
        ("sigmoid", "pre_activation", (0.5, 1 / (1 + np.exp(-1)))),
        ("sigmoid", "activation", (0.0, 1.0)),
    ],
)
def test_retraining_is_gradient_descent_on_the_bits_and_nothing_before_the_site_moves(
    studied, digits, activation, replaces, passed_on
):
    study, variables = studied
    before = jax.tree.map(np.array, variables)
    train, test, _, _ = windows_at(study, variables, digits, "dense2", (5,))
    network = replace(CONFIG.model, dropout=0.0, activation=activation)
    config = replace(CONFIG, model=network, train=replace(CONFIG.train, epochs=2))
    plain, _ = planning.study(config, digits)
    cut = retraining.cut(
        config, plain.model, variables, digits.train.rows(jnp.arange(1)), plain.sites["dense2"], replaces
    )
    retrain = retraining.Retraining(cut)
    found = retrain(train, test)
    # The same by hand: softmax regression on zeros and ones, from the same start in the same order.
    start = retraining.initial(cut).params["logits"]
    kernel, bias = (np.asarray(start[k], np.float64) for k in ("kernel", "bias"))
    zero, one = passed_on
    bits, labels = np.asarray(binarization.unpack(train.bits[0], (32,)), np.float64), np.asarray(train.labels)
    bits = zero + (one - zero) * bits
    for epoch in range(2):
        full, rest = retrain.order(len(labels), epoch)
        for ids in [*full, rest]:
            logits = bits[ids] @ kernel + bias
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            slope = (p - np.eye(10)[labels[ids]]) / len(ids)
            kernel, bias = kernel - 0.1 * bits[ids].T @ slope, bias - 0.1 * slope.sum(0)
    seen = zero + (one - zero) * np.asarray(binarization.unpack(test.bits[0], (32,)))
    by_hand = ((seen @ kernel + bias).argmax(1) == np.asarray(test.labels)).mean()
    assert found[0] == pytest.approx(by_hand, abs=2 / 360)
    for key, value in traverse_util.flatten_dict(before).items():
        np.testing.assert_array_equal(value, traverse_util.flatten_dict(variables)[key])


def test_what_precedes_the_site_is_not_run(studied, digits):
    """In the compiled epoch there is no product with the first layer's kernel, 64 x 32."""
    study, variables = studied
    train, _, _, _ = windows_at(study, variables, digits, "dense1", (5,))
    cut = retraining.cut(CONFIG, study.model, variables, digits.train.rows(jnp.arange(1)), study.sites["dense1"])
    ids, rest = (jnp.asarray(part) for part in retraining.Retraining(cut).order(1437, 0))

    def one_epoch(bits, labels):
        return retraining.epoch(cut, retraining.initial(cut), retraining.Binarized(bits, labels), ids, rest)[1]

    compiled = jax.jit(one_epoch).lower(train.bits[0], train.labels).compile().as_text()
    assert "[32,32]" in compiled  # the second layer's kernel
    assert "[64,32]" not in compiled
    assert "8,8,1]" not in compiled  # nor an image


def test_all_windows_look_at_one_pass(studied, digits):
    """Ten windows at once: one product before them, without an axis for the windows."""
    study, variables = studied
    source = sources.network(study.model, variables, study.sites)
    windows = binarization.at_centers(
        np.random.default_rng(0).normal(size=(99, 32)).astype(np.float32), range(5, 96, 10), 10
    )

    def look(lower, upper, inputs):
        values = source(inputs)["dense1"]
        return jax.vmap(lambda a, b: binarization.pack(binarization.Window(a, b)(values)))(lower, upper)

    text = jax.jit(look).lower(windows.lower, windows.upper, digits.test.inputs[:50]).as_text()
    products = [line.split("->")[1] for line in text.splitlines() if "dot_general" in line]
    assert all("10x" not in shape for shape in products)
    assert len(products) <= 3  # the network's own; XLA drops those after the site


def test_windows_together_give_the_numbers_of_windows_apart(studied, digits):
    study, variables = studied
    train, test, _, _ = windows_at(study, variables, digits, "dense1", (5, 45))
    cut = retraining.cut(CONFIG, study.model, variables, digits.train.rows(jnp.arange(1)), study.sites["dense1"])
    retrain = retraining.Retraining(cut)
    together = retrain(train, test)
    for index in range(2):
        one = lambda part, i=index: part.replace(bits=part.bits[i : i + 1])  # noqa: E731
        assert retrain(one(train), one(test))[0] == pytest.approx(together[index], abs=2 / 360)


def test_retraining_that_diverges_is_said(studied, digits):
    study, variables = studied
    train, test, _, _ = windows_at(study, variables, digits, "dense1", (45,))
    config = replace(CONFIG, train=replace(CONFIG.train, learning_rate=1e30))
    cut = retraining.cut(config, study.model, variables, digits.train.rows(jnp.arange(1)), study.sites["dense1"])
    with pytest.raises(RunError, match=r"retraining above dense1: the loss is .* with train.learning_rate 1e\+30"):
        retraining.Retraining(cut)(train, test)


# --- The experiments, whole -------------------------------------------------------------------------------------------


def test_quantization_end_to_end_over_two_seeds(tmp_path, capsys):
    options = quantization_experiment.QuantizationOptions(seeds=2, ranks=(0.0, 50.0, 100.0))
    with results.opened(tmp_path, CONFIG):
        quantization_experiment.experiment(Session(CONFIG, options, tmp_path))
    found = results.read_dataset(tmp_path / "quantization.nc")
    assert found.accuracy.dims == ("site", "percentile_rank")
    assert list(found.seed.values) == [0, 1]
    assert {"original_accuracy", "zero_rank_mean", "zero_rank_std"} <= set(found.data_vars)
    np.testing.assert_allclose(found.accuracy, found.accuracy_by_seed.mean("seed"))
    assert all(v.attrs["units"] for v in found.data_vars.values())
    assert (found.permuted_accuracy < 0.5).all()
    assert {f.stem for f in (tmp_path / "figures").iterdir()} == {"figure3", "information"}
    assert "dense1-relu" in (tmp_path / "table1.txt").read_text()
    assert (tmp_path / "seed1" / "checkpoints").is_dir()
    assert "80 ± 8.9" not in capsys.readouterr().out  # the paper's number is MNIST's
    assert "80 ± 8.9" in quantization_experiment.table_1(found.assign_attrs(preset="mnist-relu"))
    # The extreme thresholds leave one value for (nearly) all: chance.
    assert (found.accuracy.sel(percentile_rank=[0, 100]) < 0.35).all()
    assert (found.accuracy.sel(percentile_rank=50) > 0.5).all()


def test_a_stopped_sweep_goes_on_without_repeating_a_cell(tmp_path, monkeypatch):
    options = binarization_experiment.BinarizationOptions(centers=(5.0, 45.0), together=1)

    def sweep(directory):
        with results.opened(directory, CONFIG):
            binarization_experiment.experiment(Session(CONFIG, options, directory))
        return results.read_dataset(directory / "binarization.nc")

    whole = sweep(tmp_path / "whole")
    assert whole.accuracy.dims == ("site", "window_center")
    assert np.isfinite(whole.accuracy_by_seed).all()
    assert (tmp_path / "whole" / "figures" / "figure4.png").exists()

    calls = []
    original = retraining.Retraining.__call__

    def stopping(self, train, test, tick=lambda: None):
        if len(calls) == 5 and "stopped" not in calls and train.bits.shape[0] == 1:
            calls.append("stopped")
            raise KeyboardInterrupt
        calls.append(self.cut.site.name)
        return original(self, train, test, tick)

    monkeypatch.setattr(retraining.Retraining, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "stopped")
    part = results.read_dataset(tmp_path / "stopped" / "binarization.nc")
    assert int(np.isfinite(part.accuracy_by_seed).sum()) == 5
    sweep(tmp_path / "stopped")
    assert len(calls) == 13  # 12 cells, and the attempt that was stopped
    assert (tmp_path / "stopped" / "binarization.nc").read_bytes() == (
        tmp_path / "whole" / "binarization.nc"
    ).read_bytes()
    # All windows of a site in one program: the same sweep, three cells at each of two sites.
    calls.clear()
    together = binarization_experiment.BinarizationOptions(centers=(5.0, 45.0), together=2)
    with results.opened(tmp_path / "together", CONFIG):
        binarization_experiment.experiment(Session(CONFIG, together, tmp_path / "together"))
    found = results.read_dataset(tmp_path / "together" / "binarization.nc")
    np.testing.assert_allclose(found.accuracy_by_seed, whole.accuracy_by_seed, atol=2 / 360)
    # Of one source alone: the same cells, and nothing of the others.
    only = binarization_experiment.BinarizationOptions(centers=(5.0, 45.0), sources=("trained",), together=1)
    with results.opened(tmp_path / "only", CONFIG):
        binarization_experiment.experiment(Session(CONFIG, only, tmp_path / "only"))
    found = results.read_dataset(tmp_path / "only" / "binarization.nc")
    np.testing.assert_array_equal(found.accuracy, whole.accuracy)
    assert np.isnan(found.accuracy_by_seed.sel(source=["untrained", "projection"])).all()
    # Other centers, sites and sources are added, and nothing that is there goes.
    more = replace(only, centers=(45.0, 95.0), sources=("untrained",), sites=("dense2",))
    with results.opened(tmp_path / "only", CONFIG):
        calls.clear()
        binarization_experiment.experiment(Session(CONFIG, more, tmp_path / "only"))
    assert calls == ["dense2", "dense2"]
    found = results.read_dataset(tmp_path / "only" / "binarization.nc")
    assert found.window_center.values.tolist() == [5, 45, 95]
    np.testing.assert_array_equal(found.accuracy.sel(window_center=[5, 45]), whole.accuracy)
    added = found.untrained_accuracy
    assert float(added.sel(site="dense2", window_center=45)) == whole.untrained_accuracy.sel(
        site="dense2", window_center=45
    )
    assert int(np.isfinite(found.accuracy_by_seed).sum()) == 4 + 2
    # A layer that was recorded beside its neurons is a site of the sweep too.
    both = {name: Site(name, kind, (4,), np.float32) for name, kind in (("a", "Neurons"), ("b", "Dense"))}
    assert taps.select(both, only.sites).keys() == both.keys()
    # Another width is another sweep.
    wider = binarization_experiment.BinarizationOptions(centers=(10.0, 50.0), width=20.0)
    with results.opened(tmp_path / "stopped", CONFIG), pytest.raises(InputError, match="holds windows of width 10"):
        binarization_experiment.experiment(Session(CONFIG, wider, tmp_path / "stopped"))


def test_windows_are_together_where_that_takes_seconds():
    options = binarization_experiment.BinarizationOptions()
    assert readouts.windows_together(options, convolutional=False, images=50 * 1_437) == 10
    assert readouts.windows_together(options, convolutional=False, images=50 * 60_000) == 1
    assert readouts.windows_together(options, convolutional=True, images=10) == 1
    asked = replace(options, together=3)
    assert readouts.windows_together(asked, convolutional=True, images=10**9) == 3


def test_untrained_sources_are_the_network_s_own_start(studied, digits):
    study, variables = studied
    trained = jax.tree.map(lambda leaf: leaf + 1, variables)
    found = subjects.Subject(CONFIG, study.model, trained, study.sites, digits, Path())
    start = sources.network(study.model, variables, study.sites)(digits.test.inputs)
    np.testing.assert_array_equal(found.source("untrained")(digits.test.inputs)["dense1"], start["dense1"])
    assert (found.source("trained")(digits.test.inputs)["dense1"] != start["dense1"]).any()
    assert set(found.source("projection")(digits.test.inputs)) == {"dense1", "dense2"}
