"""The last flip of every sign, against a look at the whole series."""

import jax.numpy as jnp
import numpy as np

from neuron_mech.recording import freezing


def by_looking(series):
    """The recording of each pair's last turn, and whether it ever had a sign: slow and obvious."""
    recordings, pairs = series.shape
    at, ever = np.zeros(pairs, int), np.zeros(pairs, bool)
    for pair in range(pairs):
        before = 0
        for t in range(recordings):
            now = series[t, pair]
            if now and before and now != before:
                at[pair] = t
            before = now or before
        ever[pair] = before != 0
    return at, ever


def test_it_is_what_the_whole_series_says():
    rng = np.random.default_rng(0)
    series = rng.choice([-1, 0, 1], p=[0.2, 0.5, 0.3], size=(9, 200))
    series[:, :20] = 0
    series[2:, 20:40] = 1
    last = freezing.begin((200,), 9)
    for t, values in enumerate(series):
        last = freezing.update(last, jnp.asarray(values * rng.uniform(0.1, 3, 200), jnp.float32), t)
    at, ever = by_looking(series)
    np.testing.assert_array_equal(last.at, at)
    frozen = freezing.share_frozen(last, 9)
    held = series.copy()  # a zero as the sign before it
    for t in range(1, 9):
        held[t] = np.where(series[t] == 0, held[t - 1], series[t])
    for t in range(9):
        same = [len(set(held[t:, pair]) - {0}) == 1 for pair in np.flatnonzero(ever)]
        assert frozen[t] == np.mean(same), "frozen: from t on there is one sign only"
    assert frozen[-1] == 1
    assert freezing.stability_time(frozen) == np.flatnonzero(frozen >= 0.9)[0]


def test_without_any_sign_there_is_no_curve():
    frozen = freezing.share_frozen(freezing.begin((3, 4), 5), 5)
    assert np.isnan(frozen).all()
    assert np.isnan(freezing.stability_time(frozen))


def test_sixteen_bits_hold_any_usual_number_of_recordings():
    last = freezing.update(freezing.begin((2,), 2350), jnp.array([1.0, -1.0]), 0)
    last = freezing.update(last, jnp.array([-1.0, -1.0]), 2349)
    assert last.at.dtype == jnp.int16
    np.testing.assert_array_equal(last.at, [2349, 0])
