"""Two values and windows: pure functions of arrays, against loops; and what the label knows of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import mutual_info_score

from neuron_mech.codes import information, quantization, windowing
from neuron_mech.errors import InputError

samples = arrays(np.float32, st.sampled_from([(2, 3), (7, 3), (40, 3)]), elements=st.floats(-4, 4, width=16))
RANKS = tuple(range(0, 101, 10))


# --- Two values -------------------------------------------------------------------------------------------------------


@given(samples)
@settings(max_examples=25, deadline=None)
def test_each_value_becomes_the_mean_of_its_side(values):
    codes = quantization.at_ranks(jnp.asarray(values), RANKS)
    for index, rank in enumerate(RANKS):
        code = jax.tree.map(lambda leaf, i=index: leaf[i], codes)
        found = np.asarray(code(jnp.asarray(values)))
        for neuron in range(3):
            column = values[:, neuron].astype(np.float64)
            threshold = np.float32(np.percentile(values[:, neuron], rank))
            over = column > threshold
            expected = np.where(
                over, column[over].mean() if over.any() else 0, column[~over].mean() if (~over).any() else 0
            )
            np.testing.assert_allclose(found[:, neuron], expected, atol=1e-4)
            assert len(np.unique(found[:, neuron])) <= 2
        error = ((found - values) ** 2).mean(0)
        np.testing.assert_allclose(quantization.squared_error(jnp.asarray(values), code), error, atol=1e-4)


def test_a_neuron_that_never_varies_keeps_its_value_and_nothing_is_nan():
    values = jnp.full((20, 2), 3.0)
    codes = quantization.at_ranks(values, RANKS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(codes))
    for index in range(len(RANKS)):
        code = jax.tree.map(lambda leaf, i=index: leaf[i], codes)
        np.testing.assert_allclose(code(values), values)
        np.testing.assert_allclose(code(values + 1.0), values)  # an empty side has the other's mean
    windows = windowing.at_centers(values, tuple(range(5, 100, 10)), 10.0)
    inside = jax.vmap(lambda window: window(values))(windows)
    np.testing.assert_array_equal(inside.sum(0), 1)  # in exactly one window
    counts = information.label_counts(values, jnp.arange(20) % 2, 2)
    assert np.isfinite(information.threshold_information(counts)).all()
    assert (information.threshold_information(counts) <= 1e-6).all()


def test_controls_do_what_they_say():
    values = jax.random.normal(jax.random.key(0), (5000, 2))
    code = jax.tree.map(lambda leaf: leaf[0], quantization.at_ranks(values, (70,)))
    plain = np.asarray(quantization.quantized(code, values, jax.random.key(1)))
    dealt = np.asarray(quantization.permuted(code, values, jax.random.key(1)))
    np.testing.assert_allclose(np.sort(dealt, 0), np.sort(plain, 0))  # the same values ...
    for neuron in range(2):  # ... for other samples, and each neuron on its own
        assert abs(np.corrcoef(dealt[:, neuron], plain[:, neuron])[0, 1]) < 0.05
    assert abs(np.corrcoef(dealt.T)[0, 1]) < 0.05
    error = quantization.squared_error(values, code)
    noisy = quantization.noisy(jnp.sqrt(error), values, jax.random.key(2))
    np.testing.assert_allclose(((noisy - values) ** 2).mean(0), error, rtol=0.1)


# --- Windows ----------------------------------------------------------------------------------------------------------


@given(samples, st.sampled_from([5.0, 10.0, 25.0]))
@settings(max_examples=25, deadline=None)
def test_windows_side_by_side_divide_all_values_among_them(values, width):
    centers = np.arange(width / 2, 100, width).tolist()
    windows = windowing.at_centers(jnp.asarray(values), centers, width)
    unseen = jnp.asarray(np.concatenate([values, values * 100 - 7]))  # far outside, too
    inside = np.asarray(jax.vmap(lambda window: window(unseen))(windows))
    np.testing.assert_array_equal(inside.sum(0), 1)


def test_a_window_holds_its_share_of_the_values():
    values = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    windows = windowing.at_centers(values, (5, 45, 95), 10.0)
    for index, (low, high) in enumerate(((0, 10), (40, 50), (90, 100))):
        window = jax.tree.map(lambda leaf, i=index: leaf[i], windows)
        inside = np.asarray(window(jnp.asarray(values)))
        ranks = values.argsort(0).argsort(0) / 10
        np.testing.assert_allclose(inside.mean(0), 0.1, atol=0.002)
        assert (ranks[inside] >= low - 0.2).all()
        assert (ranks[inside] <= high + 0.2).all()


@given(arrays(np.bool_, st.sampled_from([(1, 1, 1), (4, 2, 3), (5, 11), (9, 16)])))
@settings(max_examples=25, deadline=None)
def test_bits_come_back_as_zeros_and_ones(inside):
    bits = windowing.pack(jnp.asarray(inside))
    assert bits.nbytes == len(inside) * -(-inside[0].size // 8)
    np.testing.assert_array_equal(windowing.unpack(bits, inside.shape[1:]), inside.astype(np.float32))


@pytest.mark.parametrize(
    ("centers", "width", "message"),
    [
        ((), 10.0, "--centers is empty"),
        ((50,), 0.0, "--width is 0"),
        ((50,), 101.0, "--width is 101"),
        ((3,), 10.0, "has 3, whose window"),
        ((97,), 10.0, "give centers from 5 to 95"),
    ],
)
def test_windows_that_are_none_are_refused(centers, width, message):
    with pytest.raises(InputError, match=message):
        windowing.at_centers(np.zeros((3, 1), np.float32), centers, width)


# --- Information ------------------------------------------------------------------------------------------------------


@given(arrays(np.int32, (4, 3), elements=st.integers(0, 30)))
@settings(max_examples=60, deadline=None)
def test_plug_in_information_is_scikit_learn_s(table):
    table[0, 0] += 1
    rows, columns = (np.repeat(index.ravel(), table.ravel()) for index in np.indices(table.shape))
    expected = mutual_info_score(rows, columns) / np.log(2)
    assert float(information.mutual_information(jnp.asarray(table), corrected=False)) == pytest.approx(
        expected, abs=2e-5
    )


def test_the_correction_takes_the_bias_back():
    """Of independent variables the plug-in estimate is above zero, by what Miller says; corrected, it is not."""
    draw = np.random.default_rng(0)
    tables = np.stack([np.histogram2d(*draw.integers(0, 8, (2, 500)), bins=8)[0] for _ in range(300)]).astype(np.int32)
    plain = np.asarray(information.mutual_information(jnp.asarray(tables), corrected=False))
    corrected = np.asarray(information.mutual_information(jnp.asarray(tables)))
    assert plain.mean() == pytest.approx(49 / (2 * 500 * np.log(2)), rel=0.1)
    assert abs(corrected.mean()) < plain.mean() / 10


def test_the_best_threshold_is_found_and_its_bit_is_worth_what_it_separates():
    values = np.random.default_rng(1).normal(size=(4000, 2)).astype(np.float32)
    labels = (values[:, 0] > np.percentile(values[:, 0], 70)).astype(np.int32)
    counts = information.label_counts(jnp.asarray(values), jnp.asarray(labels), 2)
    assert int(counts[0].sum()) == 4000
    bits = np.asarray(information.threshold_information(counts))
    assert bits[0].argmax() + 1 == 70
    entropy = -0.7 * np.log2(0.7) - 0.3 * np.log2(0.3)
    assert bits[0].max() == pytest.approx(entropy, abs=0.01)
    assert float(information.value_information(counts)[0]) == pytest.approx(entropy, abs=0.01)
    # The other neuron knows nothing of the label.
    assert abs(float(information.value_information(counts)[1])) < 0.01
    by_hand = mutual_info_score(values[:, 1] > np.percentile(values[:, 1], 40), labels) / np.log(2)
    table = jnp.stack([counts[1][:40].sum(0), counts[1][40:].sum(0)])
    assert float(information.mutual_information(table, corrected=False)) == pytest.approx(by_hand, abs=1e-4)
