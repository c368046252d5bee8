"""The tally against lists of signs kept by hand."""

import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from neuron_mech.recording import constancies, counting
from neuron_mech.recording.counting import Tally

histories = arrays(
    np.float32,
    st.sampled_from([(1, 2, 3), (9, 2, 3), (40, 2, 3)]),
    elements=st.sampled_from([-2.5, 0.0, -0.0, 1e-30, 3.0]),
)


update, update_rows = jax.jit(counting.update), jax.jit(counting.update_rows)
constant_counts, neuron_counts = jax.jit(counting.constant_counts), jax.jit(counting.neuron_counts)
histograms = jax.jit(counting.histograms)


def tallied(history: np.ndarray) -> Tally:
    tally = counting.empty(history.shape[1:], len(history))
    for gradient in history:
        tally = update(tally, gradient)
    return tally


@given(histories)
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_a_list_of_signs(history):
    tally = tallied(history)
    counts, last, recorded = oracles.counts(tally), np.sign(tally.trail), np.asarray(tally.recorded)
    for pair in np.ndindex(history.shape[1:]):
        by_hand = oracles.tally(np.sign(history[(slice(None), *pair)]))
        assert {name: of[pair] for name, of in counts.items()} == {name: by_hand[name] for name in counts}
        assert last[pair] == by_hand["last"]
        assert recorded[pair] == by_hand["positive"] + by_hand["negative"]


@pytest.mark.parametrize("kind", [jnp.float32, jnp.bfloat16])
def test_derivatives_that_are_not_finite_count_as_nothing_and_are_counted(kind, lenient):
    gradient = jnp.asarray([[[jnp.nan, 1.0], [jnp.inf, -jnp.inf]], [[0.0, -1.0], [2.0, 3.0]]], kind)
    tally = counting.empty((2, 2, 2), 5)
    # As derivatives, and as the signs of them that an online recorder keeps.
    for seen in (gradient, jax.jit(counting.signs)(gradient), gradient):
        tally = update_rows(tally, seen, 0)
    np.testing.assert_array_equal(tally.positive, [[[0, 3], [0, 0]], [[0, 0], [3, 3]]])
    np.testing.assert_array_equal(tally.negative, [[[0, 0], [0, 0]], [[0, 3], [0, 0]]])
    np.testing.assert_array_equal(tally.not_finite, [9, 0])
    np.testing.assert_array_equal(counting.merged(tally, tally).not_finite, [18, 0])


def test_counts_never_overflow_their_type():
    assert counting.count_type(126) == np.int8
    assert counting.count_type(127) == np.int16
    assert counting.count_type(2350) == np.int16
    assert counting.count_type(40_000) == np.int32
    # The worst case of each count: always one sign, and a flip at every recording.
    turning = tallied(np.where(np.arange(126) % 2, 1, -1).astype(np.float32)[:, None, None])
    steady = tallied(np.ones((126, 1, 1), np.float32))
    assert turning.trail.dtype == np.int8
    assert int(turning.flips[0, 0]) == 125
    assert int(steady.positive[0, 0]) == 126


def test_average_sign_ignores_zeros_and_is_nan_where_there_was_no_sign():
    up, down = jnp.asarray([3, 0, 5]), jnp.asarray([1, 0, 0])
    np.testing.assert_array_equal(counting.average_sign(up, down), [0.5, np.nan, 1.0])


counts = arrays(np.int16, (4, 2, 3), elements=st.integers(0, 200))


@given(counts, counts)
@settings(max_examples=60, deadline=None)
def test_statistics_by_neuron_agree_with_exact_fractions(positive, negative):
    average = [
        [Fraction(int(p - n), int(p + n)) for p, n in zip(ps, ns, strict=True) if p + n]
        for ps, ns in zip(positive.reshape(-1, 3).T, negative.reshape(-1, 3).T, strict=True)
    ]
    up, down = jnp.asarray(positive), jnp.asarray(negative)
    constant, ever = constant_counts(up, down)
    np.testing.assert_array_equal(constant, [sum(abs(a) > Fraction(9, 10) for a in neuron) for neuron in average])
    np.testing.assert_array_equal(ever, [len(neuron) for neuron in average])
    trail = np.arange(positive.size, dtype=np.int16).reshape(positive.shape) - 7
    of = neuron_counts(Tally(up, down, jnp.asarray(trail)))
    np.testing.assert_array_equal((of.constant, of.ever), (constant, ever))
    np.testing.assert_array_equal(of.low, [sum(a > 0 for a in neuron) for neuron in average])
    columns = trail.reshape(-1, 3).T
    np.testing.assert_array_equal(of.flips, [sum(max(abs(int(t)) - 1, 0) for t in column) for column in columns])
    np.testing.assert_array_equal(
        of.chances, [sum(max(int(n) - 1, 0) for n in column) for column in (positive + negative).reshape(-1, 3).T]
    )
    # numpy's bins are closed below too, and its last is closed on both sides.
    edges = [Fraction(k, 10) for k in range(-10, 11)]
    by_hand = [
        [sum(lo <= a < hi or (a == hi == 1) for a in neuron) for lo, hi in itertools.pairwise(edges)]
        for neuron in average
    ]
    np.testing.assert_array_equal(histograms(up, down), by_hand)


def test_an_average_of_exactly_nine_tenths_is_not_constant():
    constant, _ = counting.constant_counts(jnp.asarray([[95], [96]]), jnp.asarray([[5], [4]]))
    assert int(constant[0]) == 1


@given(histories)
@settings(max_examples=20, deadline=None)
def test_the_constancy_of_independent_signs_is_the_binomial_distribution_s(history):
    tally = tallied(history)
    found = constancies.independent_constancy(tally)
    positive, negative = (np.asarray(a, int).reshape(-1, a.shape[-1]) for a in (tally.positive, tally.negative))
    for neuron in range(3):
        up, many = positive[:, neuron], (positive + negative)[:, neuron]
        if not many.sum():
            assert np.isnan(found[neuron])
            continue
        p, chances = up.sum() / many.sum(), []
        for n in many[many > 0]:
            # The probability of every outcome, summed over those that count as constant.
            outcomes = [(k, math.comb(n, k) * p**k * (1 - p) ** (n - k)) for k in range(n + 1)]
            chances.append(sum(chance for k, chance in outcomes if abs(Fraction(2 * k - n, int(n))) > Fraction(9, 10)))
        assert found[neuron] == pytest.approx(np.mean(chances), abs=1e-12)


# --- Constancy at other levels, and at one number of recordings -------------------------------------------------------


def test_the_curve_counts_what_reaches_each_level():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 300, (2, 40, 3, 4))
    negative[rng.random(negative.shape) < 0.4] = 0
    positive[0, 0] = negative[0, 0] = 0
    positive[1, 0], negative[1, 0] = 190, 10  # an average of exactly 0.9
    positive[1, 1], negative[1, 1] = 199, 1  # and of exactly 0.99
    pairs = [(int(p), int(n)) for p, n in zip(positive.ravel(), negative.ravel(), strict=True) if p + n]
    by_hand = [
        np.mean([abs(Fraction(p - n, p + n)) >= Fraction(level) for p, n in pairs]) for level in ("9/10", "99/100", "1")
    ]
    np.testing.assert_allclose(constancies.constancy_curve(positive, negative), by_hand)
    assert np.isnan(constancies.constancy_curve(np.zeros((2, 1), int), np.zeros((2, 1), int))).all()


def test_rarefied_constancy_is_that_of_recordings_drawn_from_each_pair_s_own():
    """Against the sum over all draws by exact fractions, and against draws themselves."""
    rng = np.random.default_rng(1)
    recorded = rng.integers(45, 130, (12, 3))
    positive = rng.binomial(recorded, np.where(rng.random((12, 3)) < 0.5, 0.97, 0.5))
    tally = Tally(*(jnp.asarray(a, jnp.int16) for a in (positive, recorded - positive, np.zeros_like(positive))))
    found = constancies.rarefied_constancy(tally)

    def exactly(n: int, k: int) -> float:
        ways = sum(math.comb(k, x) * math.comb(n - k, 50 - x) for x in (0, 1, 2, 48, 49, 50))
        return float(Fraction(ways, math.comb(n, 50)))

    for neuron in range(3):
        deep = [(int(n), int(k)) for n, k in zip(recorded[:, neuron], positive[:, neuron], strict=True) if n >= 50]
        assert deep
        assert found[neuron] == pytest.approx(np.mean([exactly(n, k) for n, k in deep]), rel=1e-9)
    n, k = 100, 95
    one = Tally(*(jnp.full((1, 1), v, jnp.int16) for v in (k, n - k, 0)))
    signs = np.array([1] * k + [-1] * (n - k))
    drawn = [abs(rng.permutation(signs)[:50].mean()) > 0.9 for _ in range(4000)]
    assert constancies.rarefied_constancy(one)[0] == pytest.approx(np.mean(drawn), abs=0.03)
    shallow = Tally(*(jnp.full((1, 1), v, jnp.int16) for v in (49, 0, 49)))
    assert np.isnan(constancies.rarefied_constancy(shallow)[0])
