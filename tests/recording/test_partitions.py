"""Low and high: their separation and what explains them, against scikit-learn, closed forms, and slow loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata
from sklearn.metrics import mutual_info_score, roc_auc_score

from neuron_mech.recording import partitions, predictors
from neuron_mech.recording.counting import Tally
from neuron_mech.recording.partitions import HIGH, LOW

explained = jax.jit(predictors.explained_by_class)


@st.composite
def followed(draw):
    """(values over time with many ties, categories with some of none) of a few neurons."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    recordings, samples, neurons = draw(st.tuples(st.integers(1, 4), st.integers(2, 40), st.integers(1, 4)))
    levels = draw(st.sampled_from([2, 5, 1000]))
    values = rng.integers(-levels, levels, (recordings, samples, neurons)).astype(np.float32) / 3
    return values, rng.choice([LOW, HIGH, 0], (samples, neurons), p=[0.45, 0.45, 0.1]).astype(np.int8)


def test_categories_are_the_sign_of_the_average_sign():
    positive, negative = jnp.array([3, 1, 2, 0]), jnp.array([1, 3, 2, 0])
    np.testing.assert_array_equal(partitions.categories(positive, negative), [LOW, HIGH, 0, 0])


def test_disagreement_is_the_share_of_pairs_in_another_category():
    one = Tally(jnp.asarray([[3, 0], [1, 2]]), jnp.asarray([[0, 3], [0, 2]]), jnp.zeros((2, 2), jnp.int32))
    other = Tally(jnp.asarray([[3, 3], [1, 0]]), jnp.asarray([[0, 0], [0, 1]]), jnp.zeros((2, 2), jnp.int32))
    assert float(partitions.disagreement(one, one)) == 0.0
    assert float(partitions.disagreement(one, other)) == 0.5


@given(followed())
@settings(max_examples=60, deadline=None)
def test_separation_is_scikit_learn_s_area_under_the_curve(case):
    values, category = case
    found = partitions.separation(values, category)
    for row in range(len(values)):
        for neuron in range(category.shape[1]):
            of = category[:, neuron]
            if not {LOW, HIGH} <= set(of):
                assert np.isnan(found.auc[row, neuron])
                assert np.isnan(found.overlap[row, neuron])
                continue
            expected = roc_auc_score(of[of != 0] == HIGH, values[row, of != 0, neuron])
            assert found.auc[row, neuron] == pytest.approx(expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_where_a_value_is_no_finite_number_there_is_no_separation(value):
    values = np.random.default_rng(0).normal(size=(3, 8, 3))
    category = np.array([[LOW, HIGH] * 4, [0, LOW, HIGH, LOW, HIGH, LOW, HIGH, HIGH], [LOW, HIGH] * 4], np.int8).T
    whole, broken = partitions.separation(values, category), values.copy()
    broken[1, 0] = value  # of neuron 1, a sample that has no category
    for one, other in zip(partitions.separation(broken, category), whole, strict=True):
        assert np.isnan(one[1, [0, 2]]).all()
        other[1, [0, 2]] = np.nan
        np.testing.assert_array_equal(one, other)


@given(followed())
@settings(max_examples=30, deadline=None)
def test_overlap_is_what_both_histograms_cover(case):
    values, category = case
    found = partitions.separation(values, category).overlap
    for row in range(len(values)):
        for neuron in range(category.shape[1]):
            of, z = category[:, neuron], values[row, :, neuron]
            if not {LOW, HIGH} <= set(of):
                continue
            ranks = rankdata(z[of != 0])
            bins = np.minimum(((ranks - 0.5) / len(ranks) * 20).astype(int), 19)
            shares = [np.bincount(bins[of[of != 0] == kind], minlength=20) / (of == kind).sum() for kind in (LOW, HIGH)]
            assert found[row, neuron] == pytest.approx(np.minimum(*shares).sum())


def test_separation_of_two_normal_distributions_has_its_closed_form():
    rng, distance, samples = np.random.default_rng(0), 1.2, 40_000
    category = np.repeat([LOW, HIGH], samples)[:, None].astype(np.int8)
    values = rng.normal(size=(1, 2 * samples, 1)).astype(np.float32) + distance * (category == HIGH)
    found = partitions.separation(values.astype(np.float32), category)
    assert found.auc.item() == pytest.approx(norm.cdf(distance / np.sqrt(2)), abs=0.005)
    assert found.overlap.item() == pytest.approx(2 * norm.cdf(-distance / 2), abs=0.01)


@given(followed(), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_no_translation_or_scaling_changes_the_separation(case, scale, shift):
    values, category = case
    moved = (np.rint(3 * values) * scale + shift).astype(np.float32)  # the same ties
    for one, other in zip(partitions.separation(values, category), partitions.separation(moved, category), strict=True):
        np.testing.assert_array_equal(one, other)


@given(followed())
@settings(max_examples=60, deadline=None)
def test_parts_of_a_change_are_the_mean_squared_change(case):
    values, category = case
    found = partitions.change_parts(values, category)
    for row in range(len(values)):
        for neuron in range(category.shape[1]):
            of = category[:, neuron]
            z0, z = (values[r, of != 0, neuron].astype(np.float64) for r in (0, row))
            total = np.mean((z - z0) ** 2) if len(z) else 0.0
            if total == 0:
                assert np.isnan(found[row, :, neuron]).all()
                continue
            s, s0 = z.std(), z0.std()
            u, u0 = ((v - v.mean()) / (v.std() or 1) for v in (z, z0))
            between = sum(
                (of[of != 0] == kind).mean() * (u - u0)[of[of != 0] == kind].mean() ** 2
                for kind in (LOW, HIGH)
                if (of == kind).any()
            )
            expected = [
                (z.mean() - z0.mean()) ** 2,
                (s - s0) ** 2,
                s * s0 * between,
                s * s0 * (np.mean((u - u0) ** 2) - between),
            ]
            np.testing.assert_allclose(found[row, :, neuron], np.array(expected) / total, atol=1e-6)
            assert found[row, :, neuron].sum() == pytest.approx(1)


@given(followed())
@settings(max_examples=60, deadline=None)
def test_parts_of_a_variance_are_those_of_two_regressions(case):
    values, category = case
    found = partitions.variance_parts(values, category)
    for row in range(len(values)):
        for neuron in range(category.shape[1]):
            of = category[:, neuron]
            x, y = (values[r, of != 0, neuron].astype(np.float64) for r in (0, row))
            if len(x) == 0 or x.std() < 1e-9 or y.std() < 1e-9:
                assert np.isnan(found[row, :, neuron]).all()
                continue

            def unexplained(*columns, y=y):
                design = np.column_stack([np.ones_like(y), *columns])
                return np.mean((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2) / y.var()

            alone, both = unexplained(x), unexplained(x, of[of != 0])
            np.testing.assert_allclose(found[row, :, neuron], [1 - alone, alone - both, both], atol=1e-6)


def test_values_that_are_all_the_same_have_no_parts_of_their_variance():
    category = np.array([LOW, LOW, LOW, HIGH, HIGH, HIGH, 0], np.int8)[:, None]
    alike, differing = np.full((7, 1), 0.1), np.arange(7.0)[:, None]
    alike[6] = 7.0  # without a category
    assert alike[:6].sum(0) / 6 != 0.1  # so that what is left of them is not 0
    found = partitions.variance_parts(np.stack([differing, alike]), category)
    assert found[0, :, 0].tolist() == [1, 0, 0]
    assert np.isnan(found[1]).all()
    assert np.isnan(partitions.variance_parts(np.stack([alike, differing]), category)).all()


def test_pure_changes_are_told_apart():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 1)).astype(np.float32)
    category = np.where(np.arange(200) < 100, LOW, HIGH)[:, None].astype(np.int8)
    mean = z.mean()
    apart = np.where(category == HIGH, 1, -1).astype(np.float32)
    for name, changed in (("translation", z + 3), ("scaling", 2 * (z - mean) + mean)):
        parts = partitions.change_parts(np.stack([z, changed]), category)[1, :, 0]
        assert parts[partitions.PARTS.index(name)] == pytest.approx(1, abs=1e-5), name
    # Noise that becomes a pure difference of categories, and noise that becomes other noise.
    far, other = 100 * apart + z, rng.normal(size=z.shape).astype(np.float32)
    separated = partitions.change_parts(np.stack([z, far / far.std() * z.std()]), category)[1, :, 0]
    reordered = partitions.change_parts(np.stack([z, other]), category)[1, :, 0]
    moved = partitions.variance_parts(np.stack([z, 3 - 2 * z]), category)[1, :, 0]
    np.testing.assert_allclose(moved, [1, 0, 0], atol=1e-6)
    assert partitions.variance_parts(np.stack([z, far]), category)[1, 1, 0] > 0.9
    assert partitions.variance_parts(np.stack([z, other]), category)[1, 2, 0] > 0.9
    assert separated[2] > 0.45
    assert reordered[2] < 0.05 < 0.9 < reordered[3]


def test_the_finally_highest_are_a_tenth_of_high():
    rng = np.random.default_rng(0)
    final, category = rng.normal(size=(300, 3)).astype(np.float32), rng.choice([LOW, HIGH], (300, 3)).astype(np.int8)
    found = partitions.finally_highest(final, category)
    for neuron in range(3):
        high = np.flatnonzero(category[:, neuron] == HIGH)
        expected = high[np.argsort(-final[high, neuron])][: int(np.ceil(len(high) / 10))]
        assert set(np.flatnonzero(found[:, neuron])) == set(expected)
    ranks = partitions.mean_rank(final[None], found)
    expected = [100 * (rankdata(final[:, n])[found[:, n]] - 0.5).mean() / 300 for n in range(3)]
    np.testing.assert_allclose(ranks[0], expected)


# --- What the categories follow ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[(), (2, 3)], ids=["flat", "positions"])
def labelled(request):
    """(categories, labels) with classes of very different make-up, at a site with and without positions."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 150)
    chance = np.array([0.02, 0.3, 0.6, 0.99])[labels].reshape(-1, *([1] * len(request.param)), 1)
    low = rng.random((150, *request.param, 5)) < chance
    category = np.where(rng.random(low.shape) < 0.1, 0, np.where(low, LOW, HIGH)).astype(np.int8)
    category[..., 4] = LOW  # a neuron with one category
    return category, labels


def pairs(category, labels, neuron):
    """(category, label) of all pairs of a neuron that have a category, one by one."""
    found = [
        (kind, label)
        for values, label in zip(category[..., neuron], labels, strict=True)
        for kind in np.ravel(values)
        if kind
    ]
    return np.array(found).T


def test_classes_are_counted_and_shared_out(labelled):
    category, labels = labelled
    counts = jax.jit(predictors.class_counts, static_argnums=2)(category, labels, 4)
    share, by_class, whole = jax.jit(
        lambda c: [of(c) for of in (predictors.low_share, predictors.majority_by_class, predictors.majority)]
    )(counts)
    for neuron in range(5):
        kinds, classes = pairs(category, labels, neuron)
        for label in range(4):
            of = kinds[classes == label]
            assert counts[neuron, :, label].tolist() == [(of == LOW).sum(), (of == HIGH).sum()]
            assert float(share[neuron, label]) == pytest.approx((of == LOW).mean())
        majorities = sum(max((kinds[classes == c] == k).sum() for k in (LOW, HIGH)) for c in range(4))
        assert float(by_class[neuron]) == pytest.approx(majorities / len(kinds))
        assert float(whole[neuron]) == pytest.approx(max((kinds == k).mean() for k in (LOW, HIGH)))


def test_what_the_class_explains_is_scikit_learn_s_mutual_information(labelled):
    category, labels = labelled
    counts = jax.jit(predictors.class_counts, static_argnums=2)(category, labels, 4)
    found = explained(counts)
    for neuron in range(4):
        kinds, classes = pairs(category, labels, neuron)
        cells = len(set(zip(kinds, classes, strict=True)))
        bias = (cells - len(set(kinds)) - len(set(classes)) + 1) / (2 * len(kinds))
        entropy = mutual_info_score(kinds, kinds)
        assert float(found[neuron]) == pytest.approx((mutual_info_score(kinds, classes) - bias) / entropy, abs=1e-5)
    assert np.isnan(found[4])


def test_a_class_that_decides_everything_explains_everything_and_random_labels_nothing():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 5000)
    category = np.where(labels < 5, LOW, HIGH)[:, None].astype(np.int8)
    shares = [
        float(explained(jax.jit(predictors.class_counts, static_argnums=2)(category, by, 10))[0])
        for by in (labels, rng.permutation(labels))
    ]
    assert shares == pytest.approx([1, 0], abs=2e-3)


def test_agreement_counts_pairs_of_the_predicted_sign(labelled):
    category, _ = labelled
    rng = np.random.default_rng(2)
    predicted = rng.normal(size=category.shape) * (rng.random(category.shape) < 0.8)
    found = jax.jit(predictors.agreement)(predicted, category)
    for neuron in range(5):
        kinds, signs = category[..., neuron].ravel(), np.sign(predicted[..., neuron]).ravel()
        expected = np.mean([sign == kind for sign, kind in zip(signs, kinds, strict=True) if kind and sign])
        assert float(found[neuron]) == pytest.approx(expected)


def test_an_atlas_shows_the_most_constant_and_those_that_flip_most():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 20, (2, 80))
    flips = np.minimum(rng.integers(0, 20, 80), positive + negative)
    positive[:5], negative[:5], flips[:5] = 0, 0, 0  # never recorded
    low, high, flipping = partitions.atlas(positive, negative, flips, 100, rng)
    average = (positive - negative) / np.maximum(positive + negative, 1)
    assert set(low) == {*np.flatnonzero(average > 0), -1}
    assert set(high) == {*np.flatnonzero(average < 0), -1}
    for sheet, score in ((low, average), (high, -average), (flipping, flips / np.maximum(positive + negative, 1))):
        kept = sheet[sheet >= 0]
        assert len(set(kept)) == len(kept)
        assert (np.diff(score[kept]) <= 0).all()
        assert (sheet[len(kept) :] == -1).all()
    other = partitions.atlas(positive, negative, flips, 100, rng)[0]
    assert not np.array_equal(other, low)  # ties fall otherwise
