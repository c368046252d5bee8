"""Percentiles and ranks against their definitions, by hand and by scipy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import percentileofscore

from neuron_mech.codes import percentiles
from neuron_mech.errors import InputError

values = arrays(np.float32, st.sampled_from([(1, 3), (2, 3), (30, 3)]), elements=st.floats(-5, 5, width=16))


def by_hand(column: np.ndarray, rank: float) -> float:
    """Linear interpolation between the sorted values around position rank/100 (n - 1)."""
    ordered = sorted(column.astype(np.float64))
    place = rank / 100 * (len(ordered) - 1)
    below = int(np.floor(place))
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@given(values, st.lists(st.floats(0, 100), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_percentiles_interpolate_between_sorted_values(values, ranks):
    found = percentiles.percentiles(values, ranks)
    expected = [[by_hand(column, rank) for column in values.T] for rank in ranks]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32


@given(values, st.floats(-5, 5, width=16))
@settings(max_examples=60, deadline=None)
def test_ranks_are_scipy_s(values, value):
    expected = [percentileofscore(column, value, kind="mean") for column in values.T]
    np.testing.assert_allclose(percentiles.rank_of(jnp.asarray(values), value), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("ranks", "message"), [([], "is empty"), ([50, 101], "has 101"), ([-1], "has -1"), ([np.nan], "nan")]
)
def test_ranks_that_are_none_are_refused(ranks, message):
    with pytest.raises(InputError, match=message):
        percentiles.percentiles(np.zeros((3, 2), np.float32), ranks)


def test_percentiles_of_nothing_are_refused():
    with pytest.raises(InputError, match="no values"):
        percentiles.percentiles(np.zeros((0, 2), np.float32), [50])
