"""Every claim can be won, lost, left open, and beat its null or not."""

import dataclasses

import pytest

from made_up_findings import (
    TRUE,
    classes_file,
    codes_file,
    controls_file,
    displacement_file,
    dynamics_file,
    over_seeds,
    signs_file,
    train_file,
    windows_file,
)
from neuron_mech.paper import claims
from neuron_mech.paper.claims import Claim, Findings, codes, signs


def judged(which: int, found: Findings = TRUE) -> Claim:
    """One claim of the eleven on what was found."""
    return claims.CLAIMS[which - 1](found).judged()


def test_all_eleven_hold_where_the_numbers_say_so():
    every = claims.claims(TRUE)
    assert [claim.id for claim in every] == list(range(1, 12))
    assert {claim.id: claim.because for claim in every if claim.verdict != "supported"} == {}


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
    claim = judged(which, dataclasses.replace(TRUE, **change))
    assert claim.verdict == "contradicted", claim.because
    assert " fails" in claim.because


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
    before, after = judged(which), judged(which, dataclasses.replace(TRUE, **change))
    assert before.beats_null == "yes", before.because
    assert after.beats_null == "no", after.because
    assert after.verdict == "supported"


def test_claim_6_waits_for_claim_5():
    claim = judged(6, dataclasses.replace(TRUE, dynamics=over_seeds(dynamics_file, end=0.62)))
    assert claim.verdict == "not tested"
    assert "claim 5, which is contradicted" in claim.because


def test_an_accuracy_no_better_than_chance_has_nothing_to_keep():
    nothing = codes_file()
    nothing["original_accuracy_by_seed"] = nothing.original_accuracy_by_seed * 0.1
    claim = codes.two_values_suffice(dataclasses.replace(TRUE, quantization=nothing))
    assert claim.verdict == "not tested"
    assert "no better than chance" in claim.because


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


def test_seeds_are_compared_with_themselves_where_another_file_is_missing_of_each():
    named = lambda files, *seeds: [file.assign_attrs(place=seed) for file, seed in zip(files, seeds, strict=False)]  # noqa: E731
    files = ("signs", "classes", "train", "beside", "train_beside")
    same = dataclasses.replace(TRUE, **{name: named(getattr(TRUE, name), "", "seed1", "seed2") for name in files})
    of_others = {name: named(getattr(TRUE, name), "", "seed2") for name in ("classes", "train")}
    fewer = dataclasses.replace(
        same, signs=named(TRUE.signs, "", "seed1"), beside=named(TRUE.beside, "", "seed1"), **of_others
    )
    for which in (2, 4):
        assert judged(which, same).beats_null == "yes"
        assert judged(which, fewer).beats_null == "not tested"


def test_what_is_missing_is_not_tested_and_says_what_is_missing():
    every = claims.claims(Findings("digits"))
    assert {claim.verdict for claim in every} == {claim.beats_null for claim in every} == {"not tested"}
    assert all(claim.because for claim in every)
    without = judged(1, dataclasses.replace(TRUE, displacement=[]))
    assert without.beats_null == "not tested"
    assert "experiments.equal_displacement" in without.decided_by


def test_the_paper_s_sites_decide():
    dense = judged(3, dataclasses.replace(TRUE, network="mlp"))
    assert dense.verdict == "not tested"  # the paper says it of its CIFAR-10 networks
    assert {c.scope for c in dense.conditions} == {"beyond"}
    scopes = {c.site: c.scope for c in judged(1).conditions if c.what == "constant signs"}
    assert scopes == {"stage3layer2-relu": "paper", "stage0layer0-relu": "beyond"}


def test_a_network_that_is_not_trained_here_has_nothing_of_its_learning():
    found = claims.claims(Findings("imagenet-resnet50", trained_here=False))
    said = {claim.id: claim.because for claim in found}
    assert all("not trained here" in said[k] for k in (1, 2, 3, 4, 5, 6, 7)), said
    assert all(said[k].endswith("is missing") for k in (8, 9, 10, 11)), said


def test_files_of_another_version_are_said_and_leave_the_other_claims():
    old = dataclasses.replace(TRUE, signs=[s.drop_vars("neuron_low_share") for s in TRUE.signs])
    every = claims.claims(old)
    assert [claim.id for claim in every if claim.verdict != "supported"] == [2]
    assert "another version" in every[1].because
