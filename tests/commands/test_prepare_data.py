"""Data sets and weights are prepared, or what is missing or damaged is said."""

import shutil
import sys

import pytest

from calling import call
from experiments import prepare_data
from neuron_mech.config import PRESETS
from neuron_mech.errors import InputError
from neuron_mech.training import datasets


def test_preparing_data_says_what_is_there_and_what_is_missing(monkeypatch, capsys, tmp_path):
    assert prepare_data.prepare("digits", None).endswith("nothing to prepare")
    import tensorflow_datasets

    tensorflow_datasets.builder("mnist", data_dir=tmp_path, try_gcs=False)  # it looks for tensorflow at its first

    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if it were not installed
    code, _, err = call(monkeypatch, capsys, "prepare_data", "mnist-relu", "--data-dir", tmp_path)
    assert code == 2
    assert "pip install 'neuron_mech[prepare]'" in err


def test_weights_are_for_the_network_that_has_them(monkeypatch, capsys, tmp_path):
    code, _, err = call(monkeypatch, capsys, "prepare_data", "digits", "--weights", "weights.h5")
    assert (code, err) == (2, "error: --weights is weights.h5, but digits has no weights of Keras's: leave it out\n")
    (tmp_path / "weights.h5").write_text("nothing of the kind")
    code, _, err = call(
        monkeypatch, capsys, "prepare_data", "imagenet-resnet50", "--data-dir", tmp_path, "--weights", "weights.h5"
    )
    assert code == 2
    assert "--weights weights.h5 cannot be read as weights of Keras" in err


def test_prepared_data_is_recognised(mnist):
    assert prepare_data.prepare("mnist", None).startswith("mnist is prepared in ")
    assert (len(mnist.train), len(mnist.test), mnist.classes) == (60_000, 10_000, 10)
    assert mnist.train.images.shape == (60_000, 28, 28, 1)


def test_a_damaged_data_set_is_said(tmp_path, mnist):
    found = datasets.builder("mnist", None).data_path
    shutil.copytree(found, tmp_path / "mnist" / found.name)
    next((tmp_path / "mnist").rglob("*train*")).write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(InputError, match=r"record 0 of mnist train: .* put it right in the data"):
        datasets.load(PRESETS["mnist-relu"].data, tmp_path)
