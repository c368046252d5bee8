"""Many codes at once inside a network, and where the values they are made of come from."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

import small_mlp
from experiments import quantization as experiment
from neuron_mech.codes import evaluation, quantization, sources
from neuron_mech.errors import InputError
from neuron_mech.runs import planning
from neuron_mech.runs.subjects import Subject
from neuron_mech.taps import Site
from small_mlp import codes_at


@pytest.fixture(scope="module")
def studied(digits):
    return small_mlp.studied(digits)


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


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_after_the_function_two_values_are_cut_where_the_pre_activation_is_0(digits, tmp_path, activation):
    config = replace(small_mlp.CONFIG, model=replace(small_mlp.CONFIG.model, activation=activation))
    study, state = planning.study(config, digits)
    subject = Subject(config, study.model, state.variables, study.sites, digits, tmp_path)
    found = experiment.measure(subject, (50.0,), "activation").zero_threshold_accuracy
    function = {"relu": lambda z: np.maximum(z, 0), "sigmoid": lambda z: 1 / (1 + np.exp(-z))}[activation]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), dict(state.variables["params"]))
    affine = lambda x, name: x @ params[name]["kernel"] + params[name]["bias"]  # noqa: E731
    inputs = (np.asarray(of.inputs, np.float64).reshape(len(of), -1) for of in (digits.train, digits.test))
    first, test = (affine(of, "affine1") for of in inputs)
    low, high = (np.where(first > 0, np.nan, function(first)), np.where(first > 0, function(first), np.nan))
    logits = affine(function(affine(np.where(test > 0, np.nanmean(high, 0), np.nanmean(low, 0)), "affine2")), "logits")
    right = (logits.argmax(-1) == np.asarray(digits.test.labels)).mean()
    assert float(found.sel(site="dense1")) == pytest.approx(right, abs=1 / 360)


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
