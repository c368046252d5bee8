"""claims.json is what its schema says, and its verdicts can be laid beside those of another run."""

import dataclasses
import functools
import json

import jsonschema
import pytest

from made_up_findings import TRUE, over_seeds, signs_file
from neuron_mech.paper import claims
from neuron_mech.paper.claims import Findings, spread
from places import ROOT


@functools.cache
def all_hold() -> list[claims.Claim]:
    """The eleven claims where all of them hold."""
    return claims.claims(TRUE)


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
    tree = json.loads(claims.text(all_hold()))
    for change in ({"verdict": "not supported"}, {"beats_null": True}, {"extra": 1}):
        other = tree | {"claims": [tree["claims"][0] | change]}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, claims.schema(), cls=jsonschema.Draft202012Validator)


def test_claims_of_another_version_are_refused():
    with pytest.raises(ValueError, match="of version 1"):
        claims.read("[]")


def test_the_spread_of_seeds_is_the_largest_of_a_measure():
    entries = claims.read(claims.text(all_hold()))
    found = spread.of_claims(entries)
    own = [c["value"]["deviation"] for e in entries for c in e["conditions"] if c["what"] == "constant signs"]
    assert found["constant signs"] == pytest.approx(max(own), rel=1e-2)
    one = claims.claims(dataclasses.replace(TRUE, signs=TRUE.signs[:1], displacement=[]))
    assert "constant signs" not in spread.of_claims(claims.read(claims.text(one)))


def test_two_runs_are_compared_claim_by_claim():
    other = claims.claims(dataclasses.replace(TRUE, signs=over_seeds(signs_file, late=0.45)))
    said = claims.comparison(all_hold(), other, ("runs/one", "runs/two"))
    assert said.count("another verdict") == 1
    assert said.count("same verdict") == 10
    assert "other: contradicted, 45.0 %" in said
