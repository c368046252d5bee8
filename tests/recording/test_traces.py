"""Measures of whole series of signs, against scipy, brute force and series whose answer is known."""

import numpy as np
from scipy import stats

from neuron_mech.recording import traces


def drawn(recordings, pairs, seed=0, zeros=0.2):
    """Signs that prefer one side, pair by pair, with zeros among them."""
    rng = np.random.default_rng(seed)
    share = rng.beta(0.7, 0.7, pairs)
    signs = np.where(rng.random((recordings, pairs)) < share, 1, -1)
    return (signs * (rng.random((recordings, pairs)) > zeros)).astype(np.int8)


def averages(trace):
    """By a loop over pairs."""
    found = np.full(trace.shape[1], np.nan)
    for pair in range(trace.shape[1]):
        nonzero = trace[:, pair][trace[:, pair] != 0]
        if len(nonzero):
            found[pair] = np.mean(nonzero.astype(float))
    return found


def test_average_and_autocorrelation():
    trace = drawn(30, 50)
    np.testing.assert_allclose(traces.average(trace), averages(trace), rtol=1e-14)
    for lag, value in zip((1, 4), traces.autocorrelation(trace, (1, 4)), strict=True):
        both = [
            (trace[t, pair], trace[t + lag, pair])
            for t in range(30 - lag)
            for pair in range(50)
            if trace[t, pair] and trace[t + lag, pair]
        ]
        np.testing.assert_allclose(value, stats.pearsonr(*zip(*both, strict=True)).statistic, rtol=1e-12)
    never = np.tile(np.where(np.arange(50) % 2, 1, -1).astype(np.int8), (30, 1))
    np.testing.assert_allclose(traces.autocorrelation(never, (1, 20)), 1)
    assert np.isnan(traces.autocorrelation(np.ones((5, 3), np.int8), (1,))).all()


def test_reliability_is_pearsons_correlation_of_pairs_with_both():
    trace = drawn(40, 60)
    trace[:20, :5] = 0
    first, last = averages(trace[:20]), averages(trace[20:])
    both = np.isfinite(first) & np.isfinite(last)
    expected = stats.pearsonr(first[both], last[both]).statistic
    found = traces.between_windows(trace, 2)
    np.testing.assert_allclose(found[0, 1], expected, rtol=1e-12)
    np.testing.assert_allclose(found, found.T)
    expected = stats.pearsonr(averages(trace[::2]), averages(trace[1::2])).statistic
    np.testing.assert_allclose(traces.halves(trace), expected, rtol=1e-12)


def test_the_split_adds_up_and_knows_noise_from_a_preference_and_from_drift():
    rng = np.random.default_rng(1)
    constant = np.tile(np.where(rng.random(4000) < 0.5, 1, -1).astype(np.int8), (200, 1))
    noise = np.where(rng.random((200, 4000)) < 0.5, 1, -1).astype(np.int8)
    half = np.concatenate([constant[:100], np.where(rng.random(4000) < 0.5, 1, -1).astype(np.int8) * constant[100:]])
    shares = {}
    for name, trace in (("constant", constant), ("noise", noise), ("drift", half), ("mixed", drawn(60, 500, zeros=0))):
        split = traces.variance_split(trace)
        np.testing.assert_allclose(split.noise + split.constant + split.drift, split.variance, rtol=1e-12)
        odd, even = averages(trace[::2]), averages(trace[1::2])
        np.testing.assert_allclose(split.variance, np.var((odd + even) / 2), rtol=1e-12)
        shares[name] = np.array([split.noise, split.constant, split.drift]) / split.variance
    np.testing.assert_allclose(shares["constant"], [0, 1, 0], atol=1e-12)
    # Independent signs: odd and even share nothing; each part's sampling error is below 0.1 of the little there is.
    np.testing.assert_allclose(shares["noise"][0], 1, atol=0.1)
    # The second half's signs are drawn anew: the ends share nothing, odd and even everything.
    np.testing.assert_allclose(shares["drift"], [0, 0, 1], atol=0.1)


def test_nothing_to_say_is_not_a_number():
    assert np.isnan(traces.variance_split(np.zeros((20, 5), np.int8))).all()
    assert np.isnan(traces.halves(np.zeros((20, 5), np.int8)))
