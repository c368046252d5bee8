"""Every claim can be won, lost, left open, and beat its null or not; and claims.json is what its schema says."""

import dataclasses
import json

import jsonschema
import numpy as np
import pytest
import xarray as xr

from neuron_mech import store
from neuron_mech.paper import claims
from neuron_mech.paper.claims import Findings, codes, signs, spread
from places import ROOT

NEURONS = 50
SEEDS = 3


def around(mean, width=0.02, seed=0):
    """Values of neurons with exactly this mean."""
    noise = np.random.default_rng(seed).normal(size=NEURONS)
    return mean + width * (noise - noise.mean())


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


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results").rglob("claims.json")), ids=lambda path: str(path.parent.relative_to(ROOT))
)
def test_what_is_published_is_what_the_schema_says(path):
    tree = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(tree, claims.schema(), cls=jsonschema.Draft202012Validator)


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
