"""Intervals are scipy's, marks are what their definitions say, and the claims' measures are what slow code finds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from neuron_mech.paper.claims import categories, codes, estimates, signs
from neuron_mech.paper.claims.claim import WRONG, Claim, Condition, Null

# --- Intervals --------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=30), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_over_seeds_intervals_and_p_values_are_student_s(values, threshold):
    values = np.array(values) + np.arange(len(values))
    if np.ptp(values) == 0:
        return
    found, test = estimates.estimate(values), stats.ttest_1samp(values, threshold)
    interval = test.confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], [interval.low, interval.high], rtol=1e-6, atol=1e-9)
    assert found.deviation == pytest.approx(values.std(ddof=1))
    for relation, alternative in ((">", "less"), ("<", "greater")):
        expected = stats.ttest_1samp(values, threshold, alternative=alternative).pvalue
        assert found.p_on_the_other_side(threshold, relation) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_one_run_reaches_twice_as_far_as_seeds_are_known_to_differ():
    found = estimates.estimate([0.7], 0.05)
    np.testing.assert_allclose([found.low, found.high], [0.6, 0.8])
    assert found.over.startswith("one run")
    assert found.p_on_the_other_side(0.8, ">") == pytest.approx(stats.norm.sf(2))
    unknown = estimates.estimate([0.7])
    assert (unknown.low, unknown.high) == (-math.inf, math.inf)
    assert unknown.p_on_the_other_side(100, ">") == 1
    assert estimates.estimate([np.nan, 1.0], 0.1).seeds == 1
    with pytest.raises(ValueError, match="no seed"):
        estimates.estimate([np.nan])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_holm_rejects_what_its_steps_reject(p):
    """Step down by hand: the smallest against level / n, the next against level / (n - 1), until one stays."""
    adjusted = estimates.holm(p)
    for level in (0.01, 0.05, 0.2, 0.5):
        rejected = set()
        for step, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if (len(p) - step) * p[index] > level:
                break
            rejected.add(index)
        assert {i for i, a in enumerate(adjusted) if a <= level} == rejected


def test_the_bootstrap_of_two_networks_draws_seeds_then_neurons():
    rng = np.random.default_rng(0)
    one = [rng.normal(mean, 0.3, 200) for mean in rng.normal(0.7, 0.05, 5)]
    other = [rng.normal(mean, 0.3, 200) for mean in rng.normal(0.5, 0.05, 5)]

    def drawn(networks):  # slow and obvious
        return np.mean([rng.choice(networks[k], 200).mean() for k in rng.integers(5, size=5)])

    slow = np.quantile([drawn(one) - drawn(other) for _ in range(4000)], [0.025, 0.975])
    found = estimates.bootstrapped(one, other)
    assert found.value == pytest.approx(np.mean([a.mean() for a in one]) - np.mean([b.mean() for b in other]))
    np.testing.assert_allclose([found.low, found.high], slow, atol=0.01)
    # Within one network the neurons say nothing of another seed.
    assert estimates.bootstrapped(one[:1], other[:1]).low == -math.inf


# --- Marks ------------------------------------------------------------------------------------------------------------


def condition(values, relation=">", threshold=0.5, **more):
    return Condition("a share", "a", estimates.estimate(values), relation, threshold, **more)


def claim(*conditions):
    return Claim(1, "figure 1", "It is so", "half", "none", "a.nc", conditions).judged()


ABOVE, BELOW, ACROSS = [0.7, 0.71, 0.72], [0.3, 0.31, 0.32], [0.2, 0.5, 0.9]


@pytest.mark.parametrize(
    ("conditions", "verdict"),
    [
        ([condition(ABOVE)], "supported"),
        ([condition(ABOVE), condition(ACROSS)], "undecided"),
        ([condition(ABOVE), condition(BELOW)], "contradicted"),
        ([condition(ABOVE), condition(BELOW, scope="beyond")], "supported"),
        ([condition(ABOVE, scope="beyond")], "not tested"),
        ([condition(BELOW, relation="<")], "supported"),
        ([condition([0.9])], "undecided"),
        ([], "not tested"),
    ],
)
def test_the_verdict_is_by_what_the_paper_speaks_of(conditions, verdict):
    assert claim(*conditions).verdict == verdict


def test_of_many_conditions_one_just_on_the_wrong_side_contradicts_nothing():
    """One-sided p of about 0.02 alone is wrong enough; of eight, seven of them right, it is not."""
    values = np.array([0.42, 0.45, 0.48])
    threshold = 0.45 + stats.t.isf(0.02, 2) * values.std(ddof=1) / 3**0.5
    wrong = condition(values, threshold=threshold)
    assert claim(wrong).conditions[0].adjusted == pytest.approx(0.02)
    assert claim(wrong).verdict == "contradicted"
    several = claim(*[condition(ABOVE)] * 7, wrong)
    assert several.conditions[-1].adjusted == pytest.approx(0.16)
    assert several.verdict == "undecided"
    assert pytest.approx(0.025) == WRONG


@pytest.mark.parametrize(
    ("ahead", "mark"),
    [(ABOVE, "yes"), ([-0.3, -0.31, -0.29], "no"), ([-0.3, 0.1, 0.4], "undecided"), (None, "not tested")],
)
def test_the_second_mark_is_the_null_s_and_overturns_nothing(ahead, mark):
    null = Null("null", 0.2, ahead and estimates.estimate(ahead))
    shown = Null("shown", 0.9, estimates.estimate([-0.2, -0.21, -0.22]), decides=False)
    judged = claim(condition(ABOVE, nulls=(null, shown)))
    assert judged.verdict == "supported"
    assert judged.beats_null == mark


def test_what_would_decide_is_said():
    assert "three seeds" in claim(condition([0.9])).decided_by
    assert claim(condition(ABOVE)).decided_by == ""
    # The width of an interval falls with the square root of the number of seeds.
    value = estimates.estimate(ACROSS)
    expected = int(3 * ((value.high - value.low) / 2 / (value.value - 0.5)) ** 2 + 1)
    assert f"about {min(expected, 1000)} seeds in place of 3" in claim(condition(ACROSS)).decided_by


# --- Measures ---------------------------------------------------------------------------------------------------------


def test_thresholds_are_the_closed_forms_they_are_said_to_be():
    assert pytest.approx(abs(stats.binom.rvs(10, 0.5, size=10**6, random_state=0) / 10 - 0.5).mean(), abs=3e-4) == (
        signs.RANDOM_HALVES
    )
    rng = np.random.default_rng(0)
    high, low = rng.normal(0.5, 1, 10**6), rng.normal(0, 1, 10**6)
    assert (high > low).mean() == pytest.approx(categories.CLEAR, abs=2e-3)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=9, unique=True))
@settings(max_examples=30, deadline=None)
def test_kendall_s_tau_counts_pairs(values):
    pairs = [(i, j) for j in range(len(values)) for i in range(j)]
    by_hand = sum(np.sign(values[j] - values[i]) for i, j in pairs) / len(pairs)
    assert signs.kendall(values) == pytest.approx(by_hand)


def test_layers_before_max_pooling_are_apart():
    twelve = [f"stage{k}layer{j}" for k in range(4) for j in range(3)]
    assert [site for site in twelve if signs.before_pooling(site)] == ["stage0layer2", "stage1layer2", "stage2layer2"]


@given(st.lists(st.floats(0.05, 0.95), min_size=10, max_size=10))
@settings(max_examples=30, deadline=None)
def test_slope_and_symmetry_in_logits(accuracies):
    centers, accuracies = np.arange(5, 100, 10), np.array(accuracies)
    logits = codes.logit(accuracies, 1000)
    np.testing.assert_allclose(logits, special.logit((1000 * accuracies + 0.5) / 1001), rtol=1e-9)
    expected = stats.linregress(np.abs(centers - 50) / 45, logits).slope
    assert codes.slope(centers, logits) == pytest.approx(expected, abs=1e-9)
    even = (logits + logits[::-1]) / 2
    total = ((logits - logits.mean()) ** 2).sum()
    if total > 1e-9:  # even and odd parts are orthogonal
        assert codes.symmetry(logits) == pytest.approx(((even - even.mean()) ** 2).sum() / total, abs=1e-9)
    assert codes.symmetry(np.abs(centers - 50.0)) == 1
    assert codes.symmetry(centers - 50.0) == pytest.approx(0, abs=1e-12)
    assert np.isfinite(codes.logit(np.array([0.0, 1.0]), 100)).all()


def test_kept_accuracy_and_its_width():
    ranks = np.arange(0, 101, 10)
    accuracy = 0.1 + 0.8 * np.array([[0, 0.5, 0.85, 0.91, 1, 1, 1, 0.95, 0.92, 0.8, 0]])
    k = codes.kept(accuracy, np.array([0.9]), 0.1)
    np.testing.assert_allclose(k[0], (accuracy[0] - 0.1) / 0.8)
    assert codes.width(ranks, k[0]) == 80 - 30
    assert codes.width(ranks, np.zeros(11)) == 0


def test_wholly_counts_either_side_up_to_the_tolerance():
    share = np.array([[0.0, 0.1, 0.11], [0.5, 0.9, np.nan]])
    assert categories.wholly(share, 0.1) == pytest.approx(3 / 5)
    assert categories.wholly(share, 0.0) == pytest.approx(1 / 5)
    assert categories.wholly(share, 0.5) == 1
