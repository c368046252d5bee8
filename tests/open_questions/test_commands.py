"""The three experiments from their command lines, in real presets shrunken: results, figures, claims, and going on."""

import importlib
import json
import sys
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from experiments.activation_functions import claims, measurement
from experiments.command_line import exiting
from experiments.early_layers import interventions
from experiments.early_layers import measurement as early
from experiments.open_questions import options as shared
from experiments.open_questions import publishing
from experiments.prioritisation import measurement as prioritised
from neuron_mech import store
from neuron_mech.errors import InputError
from neuron_mech.paper import claims as paper

pytestmark = pytest.mark.long

IMAGES = ("--images", "200", "--test-images", "200")
"""As many to train as to test: one program reads either."""
SMALL = {
    "early_layers": (*IMAGES, "--epochs", "2", "--depth", "2", "--neurons", "16", "--seeds", "2"),
    "activation_functions": (*IMAGES, "--epochs", "2", "--neurons", "16", "--seeds", "2", "--depth", "1"),
    "prioritisation": (
        *(*IMAGES, "--epochs", "3", "--early", "1", "--neurons", "16", "--seeds", "2", "--sizes", "1", "4"),
    ),
}
FIGURES = {
    "early_layers": {"signals", "freezing", "arms", "factors"},
    "activation_functions": {"arms", "curves"},
    "prioritisation": {"patterns", "detectors", "coherence"},
}


def call(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    exiting(importlib.import_module(f"experiments.{name}.__main__").main)


@pytest.fixture(autouse=True)
def fewer(monkeypatch, lenient):
    """Of the arms and networks only some: each is a program of its own to compile."""
    monkeypatch.setattr(claims, "RIVALS", claims.RIVALS[:2])
    needed = (claims.UNIT, claims.GATE, *claims.RIVALS)
    monkeypatch.setattr(measurement, "ARMS", tuple(arm for arm in measurement.ARMS if arm.name in needed))
    monkeypatch.setattr(measurement, "CENTERS", (5, 45, 95))
    monkeypatch.setattr(
        importlib.import_module("experiments.activation_functions.pictures"),
        "SHOWN",
        dict.fromkeys(needed[:2], "black"),
    )
    shallow = {"1 layer": {"depth": 1}}
    monkeypatch.setattr(early, "NETWORKS", shallow | {name: early.NETWORKS[name] for name in ("deep, batch norm",)})
    monkeypatch.setattr(
        early, "FACTORS", {"batch norm": early.FACTORS["batch norm"], "residual": early.FACTORS["residual"]}
    )
    monkeypatch.setattr(early, "PLACES", ("all",))
    monkeypatch.setattr(interventions, "MASKS", (16,))
    sets = ("patterns", "noise 0.2", "asymmetric 0.4")
    monkeypatch.setattr(prioritised, "SETS", {name: prioritised.SETS[name] for name in sets})


@pytest.mark.parametrize("name", SMALL)
def test_it_runs_and_goes_on_to_the_same_bytes(name, tmp_path, monkeypatch, capsys):
    directory = tmp_path / "run"
    call(monkeypatch, name, "digits", *SMALL[name], "--run-dir", directory)
    said = capsys.readouterr().out
    path = directory / f"{name}.nc"
    assert str(path) in said
    found = store.read_dataset(path)
    for variable in found.data_vars.values():
        assert variable.attrs["description"], variable.name
        assert variable.attrs["units"] == "1"
    assert {file.stem for file in (directory / "figures").glob("*.png")} == FIGURES[name]
    text = (directory / "claims.json").read_text(encoding="utf-8")
    jsonschema.validate(json.loads(text), paper.schema(), cls=jsonschema.Draft202012Validator)
    for claim in paper.read(text):
        assert claim["id"] in said
        assert claim["because"] in said
    publishing.publish(directory, tmp_path)
    place = tmp_path / "open_questions" / name
    assert (place / "claims.json").read_text(encoding="utf-8") == text
    assert {file.stem for file in place.glob("*.png")} == FIGURES[name]
    assert (place / path.name).read_bytes() == path.read_bytes()
    # What was computed is not computed again, and what is lacking is. Figures are as before.
    pictures = importlib.import_module(f"experiments.{name}.pictures")
    monkeypatch.setattr(pictures, "figures", lambda found: {})
    before = path.read_bytes()
    parts = sorted((directory / "parts").glob("*.nc"))
    parts[0].unlink()
    call(monkeypatch, name, "digits", *SMALL[name], "--run-dir", directory)
    assert path.read_bytes() == before
    assert len(list((directory / "parts").glob("*.nc"))) == len(parts)
    capsys.readouterr()
    with pytest.raises(SystemExit) as refused:
        call(monkeypatch, name, "digits", *SMALL[name], "--every", "7", "--run-dir", directory)
    assert refused.value.code == 2
    assert "holds another run (there / here): every: 10 / 7: name another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("early_layers", (), "no preset given: python -m experiments.early_layers PRESET"),
        ("early_layers", ("digit",), "'digit' is no preset; did you mean 'digits'?"),
        ("early_layers", ("digits", "--seeds", "1"), "--seeds is 1: give a whole number of at least 2"),
        ("activation_functions", ("digits", "--batch-size", "5000"), "--batch-size is 5000, but there are 1437 images"),
        ("prioritisation", ("digits", "--sizes", "1", "900"), "give whole numbers from 1 to"),
        ("prioritisation", ("digits", "--sizes", "1", "2", "3", "4", "5", "6"), "--sizes has 6: two classes each"),
        ("prioritisation", ("digits", "--early", "99"), "--early is 99, but there are 30 epochs"),
    ],
)
def test_what_cannot_be_done_is_one_line(name, arguments, said, tmp_path, monkeypatch, capsys):
    place = ("--run-dir", tmp_path / "run") if arguments else ()
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, name, *arguments, *place)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_is_no_finished_run_is_not_published(tmp_path):
    with pytest.raises(InputError, match="is no finished run of early_layers"):
        publishing.publish(tmp_path, tmp_path / "results")


@pytest.mark.parametrize("name", SMALL)
def test_help_says_what_every_option_is(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, name, "digits", "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--seeds", "--epochs", "--run-dir", "--learning-rate"):
        assert option in shown


def test_results_are_in_the_order_of_seeds(tmp_path, monkeypatch):
    """Three seeds begin as two do: what a seed is does not depend on how many there are."""
    monkeypatch.setattr(prioritised, "SETS", {name: prioritised.SETS[name] for name in ("patterns", "noise 0.2")})
    small = replace(
        prioritised.PRESETS["digits"], images=200, test_images=200, epochs=3, early=1, neurons=16, sizes=(1, 4)
    )
    areas = []
    for seeds in (2, 3):
        options = replace(small, seeds=seeds)
        with store.held(tmp_path / str(seeds)) as directory:
            found = prioritised.measure(options, shared.load(options), directory)
        assert found.aum.dims == ("training_set", "seed", "sample")
        areas.append(found.aum.values[:, :2])
    np.testing.assert_allclose(*areas, rtol=1e-3, atol=1e-3)
    assert np.abs(areas[0][:, 0] - areas[0][:, 1]).max() > 0.1  # one seed is not the other
