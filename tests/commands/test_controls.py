"""The controls of the signs, from small runs."""

import sys

import numpy as np
import pytest

from experiments import controls
from experiments.command_line import main
from neuron_mech import store
from neuron_mech.paper import claims, figures
from neuron_mech.training import datasets

ARGUMENTS = (
    *("digits", "--train.epochs", "1", "--model.width", "0.0625", "--record.every", "11", "--longer", "2"),
    *("--watch.recordings", "0", "--data.train-images", "1408"),
)
"""44 steps an epoch, and no sample left over: each of a run's segments is the same program."""


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["controls", *map(str, arguments)])
    main("controls", controls.__doc__, controls.experiment, controls.ControlOptions, controls.check)


def test_they_are_compared_with_the_run(tmp_path, monkeypatch, capsys):
    command(monkeypatch, *ARGUMENTS, "--run-dir", tmp_path)
    found = store.read_dataset(tmp_path / "controls.nc")
    assert list(found.control.values) == [
        *("as-it-is", "random-labels", "true-labels", "train-mode", "online", "cross_entropy", "keras2017")
    ]
    assert not found.fitted.sel(control="random-labels")  # two epochs fit no random label
    assert np.isfinite(found.constancy).all()
    # What is not trained again keeps its accuracy, and the margin's signs are the cross-entropy's but for rounding.
    same = found.train_accuracy.sel(control=["as-it-is", "online", "train-mode", "keras2017"])
    assert (same == same[0]).all()
    difference = found.constancy.sel(control="cross_entropy") - found.constancy.sel(control="as-it-is")
    assert abs(difference).max() < 0.02
    figures.controls(found).canvas.draw()
    for name, variable in found.data_vars.items():
        assert variable.attrs["description"], name
    assert "not fitted" in capsys.readouterr().out
    (label,) = claims.signs.random_labels(claims.findings(tmp_path), "dense2")
    assert label.ahead is None  # they say nothing


def test_labels_are_dealt_anew_for_every_seed_and_none_is_lost(digits):
    random = [datasets.with_random_labels(digits, seed) for seed in (0, 0, 1)]
    labels = [np.asarray(found.train.labels) for found in random]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert (labels[0] != labels[2]).any()
    np.testing.assert_array_equal(np.sort(labels[0]), np.sort(digits.train.labels))
    assert (labels[0] == np.asarray(digits.train.labels)).mean() < 0.15
    np.testing.assert_array_equal(random[0].test.labels, digits.test.labels)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--longer", "0"), "--longer is 0"),
        (("--data.labels", "random"), "data.labels is random"),
        (("--record.mode", "none"), "record.mode is none"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, monkeypatch, capsys, arguments, said):
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, "digits", *arguments, "--run-dir", tmp_path / "run")
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
