"""Claims say what the numbers say: intervals are scipy's, and every claim can be won, lost, and lost to its control."""

import dataclasses
import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neuron_mech import store
from neuron_mech.paper import claims
from neuron_mech.paper.claims import Findings, categories, codes, estimates, signs

NEURONS = 200


def around(mean, spread=0.02, seed=0):
    """Values of neurons with exactly this mean."""
    noise = np.random.default_rng(seed).normal(size=NEURONS)
    return mean + spread * (noise - noise.mean())


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=30), st.floats(0.1, 3))
@settings(max_examples=30, deadline=None)
def test_intervals_over_neurons_are_student_s(values, scale):
    one = np.array(values) * scale + np.arange(len(values))
    other = np.sin(np.arange(len(values)))
    for found, test in (
        (estimates.estimate([one]), stats.ttest_1samp(one, 0)),
        (estimates.lead([one], [other]), stats.ttest_rel(one, other)),
        (estimates.lead_of_others([one], [other]), stats.ttest_ind(one, other, equal_var=False)),
    ):
        interval = test.confidence_interval(0.95)
        np.testing.assert_allclose([found.low, found.high], [interval.low, interval.high], rtol=1e-6, atol=1e-9)


def test_with_several_seeds_intervals_are_over_the_seeds_means():
    runs = [around(m, seed=i) for i, m in enumerate((0.5, 0.6, 0.8))]
    interval = stats.ttest_1samp([0.5, 0.6, 0.8], 0).confidence_interval(0.95)
    found = estimates.estimate(runs)
    assert found.over == "3 seeds"
    np.testing.assert_allclose([found.value, found.low, found.high], [1.9 / 3, interval.low, interval.high])
    ahead = estimates.lead(runs, [around(m) for m in (0.4, 0.4, 0.7)])
    interval = stats.ttest_1samp([0.1, 0.2, 0.1], 0).confidence_interval(0.95)
    np.testing.assert_allclose([ahead.low, ahead.high], [interval.low, interval.high])


def test_neurons_without_a_value_are_left_out():
    assert estimates.estimate([np.array([1.0, np.nan, 3.0])]).value == 2


@pytest.mark.parametrize(("share", "samples"), [(0.9, 360), (0.5, 10_000), (1.0, 50)])
def test_an_accuracy_has_wilson_s_interval(share, samples):
    found = estimates.accuracy([share], samples)
    z, p, n = stats.norm.ppf(0.975), share, samples
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    np.testing.assert_allclose([found.low, found.high], np.array([middle - half, middle + half]) / (1 + z * z / n))


def test_a_difference_of_accuracies_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        a, b = rng.binomial(500, (0.8, 0.7)) / 500
        found = estimates.accuracy_lead([a], [b], 500)
        inside += found.low < 0.1 < found.high
    assert 0.93 < inside / 1000 < 0.97


# --- Results in which every claim holds -------------------------------------------------------------------------------


def of_two_sites(variables, activation="relu", **more):
    """A result file over the neurons of the sites a and b."""
    coords = {
        "site": ["a", "b"],
        "label": ("site", [f"a-{activation}", f"b-{activation}"]),
        "neuron_site": ("neuron", ["a"] * NEURONS + ["b"] * NEURONS),
        "neuron_index": ("neuron", [*range(NEURONS)] * 2),
    }
    found = store.selectable(xr.Dataset(variables | more, coords))
    return found.assign_coords(phase=["before", "after"]) if "phase" in found.dims else found


def signs_file(early=0.4, late=0.8, low=0.5, independent=0.01, activation="relu"):
    of = {"constancy": (early, late), "independent_constancy": (independent,) * 2, "low_share": (low, low)}
    variables = {f"neuron_{n}": ("neuron", np.concatenate([*map(around, values)])) for n, values in of.items()}
    return of_two_sites(variables, activation, constancy_by_phase=(("site", "phase"), [[early, 0.9], [late, 0.9]]))


def controls_file(true=0.85, random=0.6, fitted=True):
    return of_two_sites(
        {
            "neuron_constancy": (("control", "neuron"), [np.tile(around(share), 2) for share in (random, true)]),
            "fitted": ("control", [fitted, True]),
            "train_accuracy": ("control", [0.6 if not fitted else 1.0, 1.0]),
        },
    ).assign_coords(control=["random-labels", "true-labels"])


def dynamics_file(rise=0.2, another=0.0, end=0.75, start_explains=0.2):
    auc = [[around(end - rise), around(end)], [around(0.5), around(0.5 + another, seed=1)]]
    parts = [[around(start_explains), around(0.1), around(0.7)]] * 2
    return of_two_sites(
        {
            "auc": (("partition", "wide_epoch", "neuron"), np.tile(auc, 2)),
            "variance": (("wide_epoch", "variance_part", "neuron"), np.tile(parts, 2)),
        }
    ).assign_coords(partition=["own", "another neuron's"])


def classes_file(whole=8, dealt=0, first_low=0.8):
    """`whole` of ten classes are wholly low; of labels dealt at random, `dealt`."""
    share = np.where(np.arange(10) < whole, 1.0, 0.5)[None].repeat(2 * NEURONS, 0)
    permuted = np.where(np.arange(10) < dealt, 1.0, 0.5)[None].repeat(2 * NEURONS, 0)
    share[::7, 0], permuted[::5, 1] = 0.5, 1.0  # not all neurons alike
    found = of_two_sites(
        {
            "low_share": (("neuron", "label"), share),
            "permuted_low_share": (("neuron", "label"), permuted),
            "first_low_share": ("neuron", np.tile(around(first_low), 2)),
        },
    )
    return found.drop_vars("label").assign_coords(site_label=("site", ["a-relu", "b-relu"]))


def codes_file(low=0.94, high=0.98, noise=0.90, rank=70.0, spread=5.0, before=30.0, activation="relu"):
    ranks = np.arange(0, 101, 10)
    curve = np.where(ranks < 50, low, high)
    dims = ("seed", "site", "percentile_rank")
    variables = {
        "accuracy_by_seed": (dims, [[curve, curve]]),
        "noise_accuracy_by_seed": (dims, np.full((1, 2, 11), noise)),
        "original_accuracy_by_seed": ("seed", [0.98]),
    }
    for name, values in (("zero_rank", around(rank, spread)), ("untrained_zero_rank", around(50, before))):
        variables[f"{name}_by_seed"] = (("seed", "neuron"), np.tile([values], 2))
    found = of_two_sites(variables, activation).assign_coords(seed=[0], percentile_rank=ranks)
    return found.assign_attrs(test_samples=10_000)


def windows_file(rise=0.3, middle=0.6, control_rise=0.1, control_middle=0.4, lean=0.0):
    center = np.arange(5, 100, 10)
    shape = np.abs(center - 50) / 45
    own = middle + rise * (shape - shape.min()) / (1 - shape.min()) + lean * (center - 50) / 90
    other = control_middle + control_rise * (shape - shape.min()) / (1 - shape.min())
    curves = [[[own, own]], [[other, other]], [[other, other]]]
    return xr.Dataset(
        {"accuracy_by_seed": (("source", "seed", "site", "window_center"), curves), "chance": ((), 0.1)},
        {
            "source": ["trained", "untrained", "projection"],
            "seed": [0],
            "site": ["a", "b"],
            "label": ("site", ["a-relu", "b-relu"]),
            "window_center": center,
        },
        {"test_samples": 10_000},
    )


TRUE = Findings(
    preset="digits",
    signs=[signs_file()],
    dynamics=[dynamics_file()],
    classes=[classes_file()],
    controls=[controls_file()],
    quantization=codes_file(),
    binarization=windows_file(),
    beside=[signs_file(early=0.6, activation="linear")],
)


def test_all_eleven_hold_where_the_numbers_say_so():
    judged = claims.claims(TRUE)
    assert [claim.id for claim in judged] == list(range(1, 12))
    assert {claim.id: claim.because for claim in judged if claim.verdict != "supported"} == {}


@pytest.mark.parametrize(
    ("claim", "change", "said"),
    [
        (signs.near_output, {"signs": [signs_file(late=0.49)]}, "not above 50.0 %"),
        (signs.near_output, {"signs": [signs_file(independent=0.81)]}, "control, independent signs"),
        (signs.near_output, {"controls": [controls_file(random=0.85)]}, "control, random labels"),
        (signs.halves, {"signs": [signs_file(low=0.7)]}, "not above 50.0 %"),
        (signs.halves, {"classes": [classes_file(first_low=0.5)]}, "by the first recording"),
        (signs.falls_with_distance, {"signs": [signs_file(early=0.8, late=0.6)]}, "not above 0.0 points"),
        (signs.linear_is_clearer, {"beside": [signs_file(early=0.3)]}, "not above 0.0 points"),
        (categories.categories_separate, {"dynamics": [dynamics_file(rise=-0.1)]}, "not above 0"),
        (categories.categories_separate, {"dynamics": [dynamics_file(another=0.3)]}, "another neuron's"),
        (categories.categories_separate, {"dynamics": [dynamics_file(end=0.999)]}, "not below 0.99"),
        (categories.no_translation, {"dynamics": [dynamics_file(start_explains=0.95)]}, "not below 90.0 %"),
        (categories.classes_are_whole, {"classes": [classes_file(whole=4)]}, "not above 50.0 %"),
        (categories.classes_are_whole, {"classes": [classes_file(dealt=9)]}, "labels dealt at random"),
        (codes.two_values_suffice, {"quantization": codes_file(low=0.5)}, "not above 90.0 %"),
        (codes.two_values_suffice, {"quantization": codes_file(noise=0.97)}, "noise of equal error"),
        (codes.two_values_suffice, {"quantization": codes_file(low=0.98, high=0.94)}, "not above 0.0 points"),
        (codes.ends_tell_more, {"binarization": windows_file(rise=-0.1)}, "not above 0.0 points"),
        (codes.ends_tell_more, {"binarization": windows_file(control_rise=0.4)}, "untrained neurons"),
        (codes.ends_tell_more, {"binarization": windows_file(lean=0.5)}, "sides apart"),
        (codes.middle_tells_something, {"binarization": windows_file(middle=0.1)}, "not above 10.0 %"),
        (codes.middle_tells_something, {"binarization": windows_file(control_middle=0.6)}, "untrained neurons"),
        (codes.rank_of_threshold, {"quantization": codes_file(spread=25)}, "not below 15 ranks"),
        (codes.rank_of_threshold, {"quantization": codes_file(before=5)}, "before training"),
        (codes.rank_of_threshold, {"quantization": codes_file(rank=51)}, "not above 5 ranks"),
    ],
)
def test_a_claim_fails_where_its_value_or_its_control_says_so(claim, change, said):
    judged = claim(dataclasses.replace(TRUE, **change))
    assert judged.verdict == "not supported"
    assert said in judged.because


def test_a_network_that_gets_nothing_right_has_nothing_to_keep():
    nothing = codes_file()
    nothing["original_accuracy_by_seed"] = nothing.original_accuracy_by_seed * 0
    judged = codes.two_values_suffice(dataclasses.replace(TRUE, quantization=nothing))
    assert judged.verdict == "not tested"
    assert "nothing right" in judged.because


@pytest.mark.parametrize("claim", [codes.ends_tell_more, codes.middle_tells_something])
def test_windows_count_where_they_are_symmetrical_and_held_against_a_control(claim):
    def only(site, source, centers):
        """The sweep with nothing of this source at this site but these windows."""
        found = windows_file()
        there = found.window_center.isin(centers) | (found.site != site) | (found.source != source)
        return found.assign(accuracy_by_seed=found.accuracy_by_seed.where(there))

    def sites(found):
        return {condition.site for condition in claim(dataclasses.replace(TRUE, binarization=found)).conditions}

    assert sites(windows_file()) == {"a-relu", "b-relu"}
    assert sites(only("a", "trained", [5, 45, 55, 95])) == {"a-relu", "b-relu"}
    assert sites(only("a", "trained", [5, 15, 45, 55])) == {"b-relu"}  # no four that mirror each other
    one_control = only("a", "untrained", [])
    assert sites(one_control) == {"a-relu", "b-relu"}
    no_control = one_control.where(~((one_control.site == "a") & (one_control.source == "projection")))
    assert sites(no_control.assign(chance=one_control.chance)) == {"b-relu"}
    nothing = no_control.sel(site=["a"]).assign(chance=one_control.chance)
    judged = claim(dataclasses.replace(TRUE, binarization=nothing))
    assert judged.verdict == "not tested"
    assert "a control's" in judged.because


def test_random_labels_that_were_not_fitted_say_nothing():
    judged = signs.near_output(dataclasses.replace(TRUE, controls=[controls_file(random=0.9, fitted=False)]))
    assert judged.verdict == "supported"
    assert "fitted to 60% only, so they say nothing" in judged.because


def test_what_is_missing_is_not_tested_and_says_what_is_missing():
    judged = claims.claims(Findings("digits"))
    assert {claim.verdict for claim in judged} == {"not tested"}
    assert all(claim.because for claim in judged)
    assert codes.rank_of_threshold(dataclasses.replace(TRUE, quantization=codes_file(activation="linear"))).verdict == (
        "not tested"
    )


def test_a_network_that_is_not_trained_here_has_nothing_of_its_learning():
    found = claims.claims(Findings("imagenet-resnet50", trained_here=False))
    said = {claim.id: claim.because for claim in found}
    assert all("not trained here" in said[k] for k in (1, 2, 3, 4, 5, 6, 7)), said
    assert all(said[k].endswith("is missing") for k in (8, 9, 10, 11)), said


def test_files_of_another_version_are_said_and_leave_the_other_claims(tmp_path):
    old = dataclasses.replace(TRUE, classes=[classes_file().drop_vars("first_low_share")])
    judged = claims.claims(old)
    assert [claim.id for claim in judged if claim.verdict != "supported"] == [2]
    assert "another version" in judged[1].because


def test_claims_json_holds_the_contract_s_fields(tmp_path):
    judged = claims.claims(dataclasses.replace(TRUE, dynamics=[]))
    entries = json.loads(claims.write(tmp_path, judged).read_text())
    assert len(entries) == 11
    for entry in entries:
        assert {"id", "figure", "statement", "value", "interval", "threshold", "verdict"} <= set(entry)
    assert entries[0]["interval"][0] < entries[0]["value"] < entries[0]["interval"][1]
    assert entries[4]["value"] is None
    assert entries[0]["conditions"][0]["controls"][0]["name"] == "independent signs"
    assert "NaN" not in claims.text(judged)
    assert "Infinity" not in claims.text(judged)


def test_two_runs_are_compared_claim_by_claim():
    other = claims.claims(dataclasses.replace(TRUE, signs=[signs_file(late=0.45)]))
    said = claims.comparison(claims.claims(TRUE), other, ("runs/one", "runs/two"))
    assert said.count("another verdict") == 1
    assert said.count("same verdict") == 10
    assert "other: not supported, 45.0 %" in said
