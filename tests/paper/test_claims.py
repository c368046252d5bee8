"""Claims say what the numbers say: every claim can be won, lost, left open, and beat its null or not."""

import dataclasses
import json
import math

import jsonschema
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from neuron_mech import store
from neuron_mech.paper import claims
from neuron_mech.paper.claims import Findings, categories, codes, estimates, signs, spread
from neuron_mech.paper.claims.claim import WRONG, Claim, Condition, Null

NEURONS = 50
SEEDS = 3


def around(mean, width=0.02, seed=0):
    """Values of neurons with exactly this mean."""
    noise = np.random.default_rng(seed).normal(size=NEURONS)
    return mean + width * (noise - noise.mean())


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


# --- Results in which every claim holds -------------------------------------------------------------------------------


def over_seeds(make, **changes):
    """A result file a seed, its means a little apart."""
    return [make(shift=0.004 * (k - 1), **changes) for k in range(SEEDS)]


def of_two_sites(variables, activation="relu", sites=("stage0layer0", "stage3layer2"), **more):
    """A result file over the neurons of two sites."""
    coords = {
        "site": list(sites),
        "label": ("site", [f"{site}-{activation}" for site in sites]),
        "neuron_site": ("neuron", np.repeat(sites, NEURONS)),
        "neuron_index": ("neuron", [*range(NEURONS)] * 2),
    }
    found = store.selectable(xr.Dataset(variables | more, coords))
    return found.assign_coords(phase=["before", "after"]) if "phase" in found.dims else found


def signs_file(early=0.4, late=0.8, low=0.52, activation="relu", shift=0.0):
    of = {"constancy": (early, late), "rarefied_constancy": (early, late), "low_share": (low, low)}
    variables = {f"neuron_{n}": ("neuron", np.concatenate([around(v + shift) for v in vs])) for n, vs in of.items()}
    variables["constancy_curve"] = (("site", "level"), [[early, 0.3, 0.2], [late, 0.7, 0.6]])
    variables["constancy_so_far"] = (("site", "epoch"), [[early / 2, early], [late / 2, late]])
    return of_two_sites(variables, activation).assign_coords(level=[0.9, 0.99, 1.0])


def train_file(shift=0.0, losses=(1.0, 0.1)):
    return xr.Dataset({"loss": ("step", np.repeat(losses, 4))}, {"epoch": [1, 2]})


def displacement_file(null=(0.3, 0.6), shift=0.0):
    of = [np.concatenate([around(v + shift) for v in pair]) for pair in ((0.4, 0.8), null, null)]
    found = of_two_sites({"neuron_constancy": (("null", "neuron"), of)})
    return found.assign_coords(null=["as it is", "displacement permuted", "displacement permuted, biases too"])


def controls_file(true=0.85, random=0.6, fitted=True, shift=0.0):
    return of_two_sites(
        {
            "neuron_constancy": (("control", "neuron"), [np.tile(around(share), 2) for share in (random, true)]),
            "fitted": ("control", [fitted, True]),
            "train_accuracy": ("control", [0.6 if not fitted else 1.0, 1.0]),
        },
    ).assign_coords(control=["random-labels", "true-labels"])


def dynamics_file(start=0.55, another=0.5, end=0.75, climbed=0.5, shift=0.0):
    auc = [[around(start), around(end + shift)], [around(0.5), around(another, seed=1)]]
    variables = {"auc": (("partition", "wide_epoch", "neuron"), np.tile(auc, 2))}
    ends = {"half_auc": 0.74, "class_auc": 0.7, "position_mean_auc": np.nan}
    ranks = {"highest_rank_start": 90 - 40 * climbed, "highest_rank_end": 90 + shift}
    for name, value in (ends | ranks).items():
        variables[name] = ("neuron", np.tile(around(value), 2))
    return of_two_sites(variables).assign_coords(partition=["own", "another neuron's"])


def classes_file(whole=8, dealt=0, first=6, first_low=0.8, shift=0.0):
    """`whole` of ten classes are wholly low; `first` by the first recording, `dealt` of labels dealt at random."""

    def shares(several):
        return np.where(np.arange(10) < several, 1.0, 0.5)[None].repeat(2 * NEURONS, 0)

    share = shares(whole)
    share[: int(20 * (1 + 100 * shift)), 0] = 0.5  # not all seeds alike
    found = of_two_sites(
        {
            "low_share": (("neuron", "label"), share),
            "first_low_share_by_class": (("neuron", "label"), shares(first)),
            "permuted_low_share": (("neuron", "label"), shares(dealt)),
            "first_low_share": ("neuron", np.tile(around(first_low + shift), 2)),
            "agreement": (("predictor", "neuron"), np.tile(around(0.75 + shift), (2, 2))),
        },
    )
    found = found.drop_vars("label").assign_coords(site_label=("site", ["dense1-relu", "dense2-relu"]))
    return found.assign_coords(predictor=["class sign, untrained", "class sign, trained"])


def codes_file(low=0.93, high=0.98, noise=0.90, rank=70.0, width=5.0, before=30.0, activation="relu", edge=0.93):
    ranks = np.arange(0, 101, 10)
    curve = np.where(ranks < 50, low, high)
    curve = np.where((ranks == 0) | (ranks == 100), 0.1, curve)
    curve[1] = edge
    dims = ("seed", "site", "percentile_rank")
    shifts = 0.002 * (np.arange(SEEDS) - 1)
    variables = {
        "accuracy_by_seed": (dims, np.stack([[curve + s] * 2 for s in shifts])),
        "noise_accuracy_by_seed": (dims, np.stack([np.full((2, 11), noise + 0.3 * s) for s in shifts])),
        "original_accuracy_by_seed": ("seed", np.full(SEEDS, 0.98)),
    }
    for name, values in (("zero_rank", around(rank, width)), ("untrained_zero_rank", around(50, before))):
        variables[f"{name}_by_seed"] = (("seed", "neuron"), [np.tile(values, 2) * (1 + s) for s in shifts])
    found = of_two_sites(variables, activation).assign_coords(seed=range(SEEDS), percentile_rank=ranks)
    return found.assign(chance=((), 0.1)).assign_attrs(test_samples=10_000)


def windows_file(rise=0.3, middle=0.6, control_rise=0.1, control_middle=0.4, lean=0.0):
    center = np.arange(5, 100, 10)
    shape = np.abs(center - 50) / 45
    own = middle + rise * (shape - shape.min()) / (1 - shape.min()) + lean * (center - 50) / 90
    other = control_middle + control_rise * (shape - shape.min()) / (1 - shape.min())
    shifts = 0.002 * (np.arange(SEEDS) - 1)[:, None, None]
    curves = [
        np.array([own, own]) + shifts,
        np.array([other, other]) + shifts / 2,
        np.array([other, other]) + shifts / 2,
    ]
    sites = ["stage0layer0", "stage3layer2"]
    return xr.Dataset(
        {"accuracy_by_seed": (("source", "seed", "site", "window_center"), curves), "chance": ((), 0.1)},
        {
            "source": ["trained", "untrained", "projection"],
            "seed": range(SEEDS),
            "site": sites,
            "label": ("site", [f"{site}-relu" for site in sites]),
            "window_center": center,
        },
        {"test_samples": 10_000},
    )


TRUE = Findings(
    preset="digits",
    network="cnn",
    train=over_seeds(train_file),
    signs=over_seeds(signs_file),
    dynamics=over_seeds(dynamics_file),
    classes=over_seeds(classes_file),
    displacement=over_seeds(displacement_file),
    quantization=codes_file(),
    binarization=windows_file(),
    beside=over_seeds(signs_file, early=0.6, activation="linear"),
    train_beside=over_seeds(train_file),
)


def test_all_eleven_hold_where_the_numbers_say_so():
    judged = claims.claims(TRUE)
    assert [claim.id for claim in judged] == list(range(1, 12))
    assert {claim.id: claim.because for claim in judged if claim.verdict != "supported"} == {}


@pytest.mark.parametrize(
    ("which", "change"),
    [
        (1, {"signs": over_seeds(signs_file, late=0.45)}),
        (2, {"signs": over_seeds(signs_file, low=0.7)}),
        (3, {"signs": over_seeds(signs_file, early=0.8, late=0.6)}),
        (4, {"beside": over_seeds(signs_file, early=0.3, activation="linear")}),
        (5, {"dynamics": over_seeds(dynamics_file, end=0.62)}),
        (5, {"dynamics": over_seeds(dynamics_file, end=1.2)}),
        (6, {"dynamics": over_seeds(dynamics_file, climbed=0.05)}),
        (7, {"classes": [classes_file(whole=4, shift=s) for s in (-0.004, 0.0, 0.004)]}),
        (8, {"quantization": codes_file(low=0.5, high=0.8)}),
        (8, {"quantization": codes_file(low=0.5, high=0.98, edge=0.5)}),
        (8, {"quantization": codes_file(low=0.98, high=0.94, edge=0.98)}),
        (9, {"binarization": windows_file(rise=-0.1)}),
        (9, {"binarization": windows_file(lean=0.5, middle=0.4)}),
        (10, {"binarization": windows_file(middle=0.05)}),
        (11, {"quantization": codes_file(width=25)}),
        (11, {"quantization": codes_file(rank=51)}),
    ],
)
def test_a_claim_is_contradicted_where_its_value_is_wholly_on_the_wrong_side(which, change):
    judged = claims.claims(dataclasses.replace(TRUE, **change))[which - 1]
    assert judged.verdict == "contradicted", judged.because
    assert " fails" in judged.because


@pytest.mark.parametrize(
    ("which", "change"),
    [
        (1, {"displacement": over_seeds(displacement_file, null=(0.3, 0.9))}),
        (2, {"classes": over_seeds(classes_file, first_low=0.51)}),
        (3, {"displacement": over_seeds(displacement_file, null=(0.1, 0.8))}),
        (4, {"train_beside": over_seeds(train_file, losses=(0.1, 0.05))}),
        (5, {"dynamics": over_seeds(dynamics_file, start=0.8)}),
        (7, {"classes": [classes_file(first=9, shift=s) for s in (-0.004, 0.0, 0.004)]}),
        (8, {"quantization": codes_file(noise=0.979)}),
        (9, {"binarization": windows_file(control_rise=0.55)}),
        (10, {"binarization": windows_file(control_middle=0.7)}),
        (11, {"quantization": codes_file(before=2)}),
    ],
)
def test_a_null_that_is_not_beaten_is_said_and_overturns_nothing(which, change):
    before, judged = (claims.claims(found)[which - 1] for found in (TRUE, dataclasses.replace(TRUE, **change)))
    assert before.beats_null == "yes", before.because
    assert judged.beats_null == "no", judged.because
    assert judged.verdict == "supported"


def test_claim_6_waits_for_claim_5():
    judged = claims.claims(dataclasses.replace(TRUE, dynamics=over_seeds(dynamics_file, end=0.62)))[5]
    assert judged.verdict == "not tested"
    assert "claim 5, which is contradicted" in judged.because


def test_an_accuracy_no_better_than_chance_has_nothing_to_keep():
    nothing = codes_file()
    nothing["original_accuracy_by_seed"] = nothing.original_accuracy_by_seed * 0.1
    judged = codes.two_values_suffice(dataclasses.replace(TRUE, quantization=nothing))
    assert judged.verdict == "not tested"
    assert "no better than chance" in judged.because


@pytest.mark.parametrize("claim", [codes.ends_tell_more, codes.middle_tells_something])
def test_windows_count_where_they_are_symmetrical_and_seeds_where_they_are_finished(claim):
    def only(site, source, centers, seeds=(0, 1, 2)):
        """The sweep with nothing of this source at this site but these windows of these seeds."""
        found = windows_file()
        there = found.window_center.isin(centers) & found.seed.isin(seeds)
        there = there | (found.site != site) | (found.source != source)
        return found.assign(accuracy_by_seed=found.accuracy_by_seed.where(there))

    def of(found):
        return {c.site: c.value.seeds for c in claim(dataclasses.replace(TRUE, binarization=found)).conditions}

    first, last = "stage0layer0-relu", "stage3layer2-relu"
    assert of(windows_file()) == {first: 3, last: 3}
    assert of(only("stage0layer0", "trained", [5, 45, 55, 95])) == {first: 3, last: 3}
    assert of(only("stage0layer0", "trained", [5, 15, 45, 55])) == {last: 3}  # no four that mirror each other
    assert of(only("stage0layer0", "trained", range(100), seeds=(0, 2))) == {first: 2, last: 3}


def test_random_labels_that_were_not_fitted_say_nothing():
    found = dataclasses.replace(TRUE, controls=[controls_file(random=0.9, fitted=False)])
    (said,) = [null for null in signs.random_labels(found, "stage3layer2")]
    assert "fitted to 60% only, so they say nothing" in said.name
    assert said.beaten == "not tested"
    (said,) = signs.random_labels(dataclasses.replace(TRUE, controls=over_seeds(controls_file)), "stage3layer2")
    assert said.value == pytest.approx(0.6)
    assert not said.decides


def test_what_is_missing_is_not_tested_and_says_what_is_missing():
    judged = claims.claims(Findings("digits"))
    assert {claim.verdict for claim in judged} == {claim.beats_null for claim in judged} == {"not tested"}
    assert all(claim.because for claim in judged)
    without = claims.claims(dataclasses.replace(TRUE, displacement=[]))[0]
    assert without.beats_null == "not tested"
    assert "experiments.equal_displacement" in without.decided_by


def test_the_paper_s_sites_decide():
    dense = claims.claims(dataclasses.replace(TRUE, network="mlp"))
    assert dense[2].verdict == "not tested"  # the paper says it of its CIFAR-10 networks
    assert {c.scope for c in dense[2].conditions} == {"beyond"}
    scopes = {c.site: c.scope for c in claims.claims(TRUE)[0].conditions if c.what == "constant signs"}
    assert scopes == {"stage3layer2-relu": "paper", "stage0layer0-relu": "beyond"}


def test_a_network_that_is_not_trained_here_has_nothing_of_its_learning():
    found = claims.claims(Findings("imagenet-resnet50", trained_here=False))
    said = {claim.id: claim.because for claim in found}
    assert all("not trained here" in said[k] for k in (1, 2, 3, 4, 5, 6, 7)), said
    assert all(said[k].endswith("is missing") for k in (8, 9, 10, 11)), said


def test_files_of_another_version_are_said_and_leave_the_other_claims():
    old = dataclasses.replace(TRUE, signs=[s.drop_vars("neuron_low_share") for s in TRUE.signs])
    judged = claims.claims(old)
    assert [claim.id for claim in judged if claim.verdict != "supported"] == [2]
    assert "another version" in judged[1].because


# --- claims.json ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [TRUE, Findings("digits"), dataclasses.replace(TRUE, dynamics=[], displacement=[])])
def test_claims_json_is_what_its_schema_says(tmp_path, found):
    judged = claims.claims(found)
    text = claims.write(tmp_path, judged).read_text()
    tree = json.loads(text)
    jsonschema.validate(tree, claims.schema(), cls=jsonschema.Draft202012Validator)
    assert tree["version"] == claims.VERSION
    assert claims.read(text) == tree["claims"]
    assert "NaN" not in text
    assert "Infinity" not in text


def test_the_schema_refuses_what_is_not_in_it():
    tree = json.loads(claims.text(claims.claims(TRUE)))
    for change in ({"verdict": "not supported"}, {"beats_null": True}, {"extra": 1}):
        other = tree | {"claims": [tree["claims"][0] | change]}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, claims.schema(), cls=jsonschema.Draft202012Validator)


def test_claims_of_another_version_are_refused():
    with pytest.raises(ValueError, match="of version 1"):
        claims.read("[]")


def test_the_spread_of_seeds_is_the_largest_of_a_measure():
    entries = claims.read(claims.text(claims.claims(TRUE)))
    found = spread.of_claims(entries)
    own = [c["value"]["deviation"] for e in entries for c in e["conditions"] if c["what"] == "constant signs"]
    assert found["constant signs"] == pytest.approx(max(own), rel=1e-2)
    one = claims.claims(dataclasses.replace(TRUE, signs=TRUE.signs[:1], displacement=[]))
    assert "constant signs" not in spread.of_claims(claims.read(claims.text(one)))


def test_two_runs_are_compared_claim_by_claim():
    other = claims.claims(dataclasses.replace(TRUE, signs=over_seeds(signs_file, late=0.45)))
    said = claims.comparison(claims.claims(TRUE), other, ("runs/one", "runs/two"))
    assert said.count("another verdict") == 1
    assert said.count("same verdict") == 10
    assert "other: contradicted, 45.0 %" in said
