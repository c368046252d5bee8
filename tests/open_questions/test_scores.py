"""Scores of single samples against their published definitions, written out slowly; planted data; T and claims."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from drawn import started
from experiments.open_questions.judging import Measured, judged
from experiments.open_questions.network import Layers
from experiments.prioritisation import claims, planting, scores
from experiments.prioritisation.measurement import look, sided_from
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims import Claim
from neuron_mech.recording import separating
from neuron_mech.training.datasets import Samples


@pytest.fixture
def run():
    """Logits of 6 epochs, 9 samples and 4 classes, and labels."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 9, 4)).astype(np.float32), rng.integers(0, 4, 9)


def test_area_under_the_margin(run):
    logits, labels = run
    expected = []
    for i, label in enumerate(labels):
        margins = [of[i][label] - max(of[i][k] for k in range(4) if k != label) for of in logits.astype(np.float64)]
        expected.append(sum(margins) / 6)
    np.testing.assert_allclose(scores.area_under_margin(logits, labels), expected, rtol=1e-6)


def test_forgetting_events_and_the_first_learned_epoch():
    right = np.array([[0, 1, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0]], bool)
    # Learned, forgotten, learned; always; never; learned and forgotten twice.
    np.testing.assert_array_equal(scores.forgetting_events(right), [1, 0, 4, 2])
    np.testing.assert_array_equal(scores.first_learned(right), [1, 0, 4, 0])


def test_a_sample_is_learned_where_its_label_wins(run):
    logits, labels = run
    for epoch in range(6):
        for i in range(9):
            assert scores.learned(logits, labels)[epoch, i] == (max(logits[epoch, i]) == logits[epoch, i, labels[i]])


def test_el2n(run):
    logits, labels = run
    for i, label in enumerate(labels):
        error = special.softmax(logits[0, i].astype(np.float64))
        error[label] -= 1
        np.testing.assert_allclose(scores.el2n(logits[0], labels)[i], np.sqrt((error**2).sum()), rtol=1e-12)


@pytest.fixture
def network(lenient):
    model = Layers(depth=2, neurons=7, dropout=0.0, classes=3)
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.integers(0, 17, (12, 3, 3, 1)), jnp.uint8)
    samples = Samples(images, jnp.asarray(rng.integers(0, 3, 12), jnp.int32), largest=16)
    return model, started(model, 0, samples.inputs), samples


def weight_gradients(model, variables, samples, i):
    """One sample's gradient of its cross-entropy, in float64, by hand: {layer: (inputs + 1, outputs)}, bias last."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    h = np.asarray(samples.inputs[i], np.float64).ravel()
    below, z = {}, {}
    for layer in ("affine1", "affine2"):
        below[layer], z[layer] = h, h @ p[layer]["kernel"] + p[layer]["bias"]
        h = np.maximum(z[layer], 0)
    below["logits"] = h
    d = special.softmax(h @ p["logits"]["kernel"] + p["logits"]["bias"])
    d[int(samples.labels[i])] -= 1
    found = {"logits": np.outer(np.append(h, 1), d)}
    wanted = {}
    for layer, above in (("affine2", "logits"), ("affine1", "affine2")):
        wanted[layer] = p[above]["kernel"] @ d
        d = wanted[layer] * (z[layer] > 0)
        found[layer] = np.outer(np.append(below[layer], 1), d)
    return found, wanted, z


def test_grand_is_the_length_of_the_whole_gradient(network):
    model, variables, samples = network
    expected = [
        np.sqrt(sum((of**2).sum() for of in weight_gradients(model, variables, samples, i)[0].values()))
        for i in range(12)
    ]
    np.testing.assert_allclose(scores.grand(model, variables, samples), expected, rtol=1e-4)


def test_separation_and_support_are_what_single_samples_say(network):
    model, variables, samples = network
    wrong = jnp.asarray(np.arange(12) < 4)
    found = look(model, variables, samples, wrong)
    each = [weight_gradients(model, variables, samples, i) for i in range(12)]
    for site, layer in (("dense1", "affine1"), ("dense2", "affine2")):
        values = np.stack([of[2][layer] for of in each])
        low, middle, high = np.percentile(values, [16, 50, 84], axis=0)
        places = (values - middle) / ((high - low) / 2 + 1e-3)
        apart = -np.sign(np.stack([of[1][layer] for of in each])) * np.clip(places, -3, 3)
        np.testing.assert_allclose(found[f"separation {site}"], apart.mean(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found[f"right {site}"], apart > 0)
        single = np.stack([of[0][layer] for of in each])  # (samples, inputs + 1, neurons)
        agrees = [[s[:, j] @ (single.sum(0) - s)[:, j] > 0 for j in range(7)] for s in single]
        np.testing.assert_allclose(found[f"support {site}"], np.mean(agrees, 1), atol=1e-6)
        for row, group in enumerate((np.ones(12, bool), ~np.asarray(wrong), np.asarray(wrong))):
            some = single[group]
            with np.errstate(invalid="ignore"):
                alpha = (some.sum(0) ** 2).sum(0) / (len(some) * (some**2).sum((0, 1)))
            np.testing.assert_allclose(found[f"coherence {site}"][row], np.nanmean(alpha), rtol=1e-4)


def test_where_a_reference_is_given_percentiles_are_its_own():
    values = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    low, middle, high = np.percentile(values[:20], [16, 50, 84], axis=0)
    expected = (values - middle) / ((high - low) / 2 + 1e-3)
    np.testing.assert_allclose(separating.standardised(jnp.asarray(values), 20), expected, rtol=1e-4, atol=1e-5)


def test_sided_from_is_the_first_recording_from_which_more_than_half_stay_right():
    rng = np.random.default_rng(4)
    right = rng.random((8, 30, 5)) < 0.8  # recordings, samples, neurons
    last_wrong = np.full((30, 5), -1)
    for t in range(8):
        last_wrong[~right[t]] = t
    expected = [
        next(t for t in range(9) if right[t:, i].all(0).sum() > 2)
        for i in range(30)  # from 8 on nothing is known
    ]
    np.testing.assert_array_equal(sided_from(last_wrong), expected)
    assert sided_from(np.full((1, 4), -1)) == [0]


@pytest.fixture(scope="module")
def plain():
    rng = np.random.default_rng(5)
    return Samples(jnp.asarray(rng.integers(0, 17, (400, 4, 4, 1)), jnp.uint8), jnp.arange(400) % 10, largest=16)


def test_patterns_are_planted_in_as_many_samples_as_said(plain):
    found = planting.with_patterns(plain, (1, 4, 16), 10, seed=2)
    np.testing.assert_array_equal(np.bincount(found.population[found.population >= 0]), [1, 4, 16, 1, 4, 16])
    before = np.asarray(plain.images)
    for number in range(6):
        ids = np.flatnonzero(found.population == number)
        assert len(set(found.labels[ids])) == 1
        for i in ids:
            changed = np.rot90(before[i]) if number < 3 else np.maximum(before[i], 8)
            np.testing.assert_array_equal(found.images[i], changed)
    untouched = found.population < 0
    np.testing.assert_array_equal(found.images[untouched], before[untouched])
    assert not np.array_equal(found.population, planting.with_patterns(plain, (1, 4, 16), 10, seed=3).population)


@pytest.mark.parametrize(("share", "asymmetric"), [(0.2, False), (0.4, False), (0.4, True)])
def test_wrong_labels_are_wrong_and_as_many_as_said(plain, share, asymmetric):
    found = planting.with_wrong_labels(plain, share, asymmetric, 10, seed=0)
    true = np.asarray(plain.labels)
    np.testing.assert_array_equal(found.labels != true, found.wrong)
    assert found.wrong.sum() == round(share * 400)
    steps = (found.labels - true)[found.wrong] % 10
    assert set(steps) == {1} if asymmetric else set(steps) == set(range(1, 10))


def test_the_slope_is_that_of_a_regression():
    rng = np.random.default_rng(6)
    sizes = np.array([1, 4, 16, 64] * 2)
    aum = rng.normal(size=8)
    times = 30 - 2.5 * np.log2(sizes) + 4 * aum
    assert claims.slope(times, sizes, aum) == pytest.approx(-2.5)
    noisy = times + rng.normal(size=8)
    assert claims.slope(noisy, sizes) == pytest.approx(stats.linregress(np.log2(sizes), noisy).slope)


def made(separation_tells: bool) -> xr.Dataset:
    """A result in which separation says which labels are wrong, or nothing, and AUM says little."""
    rng = np.random.default_rng(7)
    wrong = (rng.random((1, 3, 300)) < 0.3).astype(np.int8)
    aum = rng.normal(size=wrong.shape) - 0.5 * wrong
    by_site = rng.normal(size=(1, 3, 2, 300)) - (2 * wrong[:, :, None] if separation_tells else 0)
    dims = ("training_set", "seed", "site", "sample")
    found = {name: (dims, by_site) for name in ("separation", "separation_end", "sided_from", "support")}
    others = {
        name: (("training_set", "seed", "sample"), aum)
        for name in ("aum", "forgetting", "first_learned", "el2n", "grand")
    }
    coords = {"training_set": ["noise"], "site": ["dense1", "dense2"]}
    return xr.Dataset(found | others | {"wrong": (("training_set", "seed", "sample"), wrong)}, coords)


def test_a_gain_is_there_where_separation_tells_and_not_where_it_does_not():
    assert claims.gain(made(True), "noise").min() > 0.1
    assert abs(claims.gain(made(False), "noise")).max() < 0.05
    assert abs(claims.gain(made(True), "noise", dealt=True)).max() < 0.05
    areas = claims.detection(made(True), "noise")
    found = made(True).isel(training_set=0, seed=0)
    positive, negative = (found.aum.values[found.wrong.values == of] for of in (1, 0))
    share = stats.mannwhitneyu(-positive, -negative).statistic / (len(positive) * len(negative))
    assert areas["aum"][0] == pytest.approx(share)


def test_verdicts():
    """Intervals and p-values are scipy's; a null that is not beaten overturns nothing."""
    base = Claim("1, a", "", "", "", "the null", "")
    low, high, wide = np.array([0.1, 0.11, 0.12]), np.array([0.9, 0.91, 0.92]), np.array([0.0, 0.5, 1.0])
    for values, verdict in ((high, "supported"), (low, "contradicted"), (wide, "undecided")):
        found = judged(base, [Measured("a", "", high, ">", 0.5), Measured("b", "", values, ">", 0.5)])
        assert (found.verdict, found.beats_null) == (verdict, "not tested")
        value, adjusted = found.conditions[1].value, found.conditions[1].adjusted
        expected = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
        np.testing.assert_allclose((value.low, value.high), expected)
        p = sorted(stats.ttest_1samp(of, 0.5, alternative="less").pvalue for of in (high, values))
        both = [min(1, 2 * p[0]), min(1, max(2 * p[0], p[1]))]
        assert adjusted == pytest.approx(both[0 if values is not high else 1])
    few = judged(base, [Measured("a", "", np.array([np.nan, 1.0, 2.0]), ">", 0)])
    assert few.conditions[0].value.seeds == 2
    none = judged(base, [Measured("a", "here", np.full(3, np.nan), ">", 0), Measured("b", "", high, ">", 0)])
    assert (none.verdict, none.because) == ("not tested", "no seed has a value of a (here)")
    for null, mark in ((0.5 + low, "yes"), (low - 0.05, "no"), (wide, "undecided"), (np.full(3, np.nan), "not tested")):
        found = judged(base, [Measured("a", "", low, "<", 0.5, null)])
        assert (found.verdict, found.beats_null) == ("supported", mark)
    assert judged(base, [Measured("a", "", high, ">", 0.5, low)]).beats_null == "yes"


def test_patterns_that_are_dealt_to_other_samples_have_no_slope_but_their_own_have():
    sizes, rng = [1, 4, 16], np.random.default_rng(8)
    population = np.full((2, 60), -1)
    population[:, :42] = np.repeat(np.arange(6), [*sizes, *sizes])
    size = np.array(sizes)[population % 3]
    times = np.where(population >= 0, 50 - 3 * np.log2(size) + rng.normal(size=population.shape), 1000.0)
    found = xr.Dataset(
        {
            "sided_from": (("training_set", "seed", "site", "sample"), times[None, :, None]),
            "aum": (("training_set", "seed", "sample"), rng.normal(size=(1, 2, 60))),
            "population": (("training_set", "seed", "sample"), population[None]),
        },
        {"training_set": ["patterns"], "site": ["dense1"]},
        {"sizes": sizes},
    )
    np.testing.assert_allclose(claims.slopes(found, "dense1", False), -3, atol=0.6)
    dealt = np.mean([claims.slopes(found, "dense1", False, deal) for deal in range(100)], 0)
    np.testing.assert_allclose(dealt, 0, atol=0.5)
