"""Data sets that are none for this: refused in a line, before anything is read."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

import prepared
from neuron_mech.config import Data
from neuron_mech.errors import InputError
from neuron_mech.training import datasets

GREY = prepared.encoded(np.zeros((8, 8, 1), np.uint8))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        (tfds.features.Text(), "seven", "whose labels are Text without classes"),
        (tfds.features.Scalar(np.int64), 7, "whose labels are Scalar without classes"),
        (tfds.features.ClassLabel(), 7, "whose labels are ClassLabel without classes"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, stream, label, value, said):
    prepared.write(tmp_path, {"train": [(GREY, value)] * 4, "test": [(GREY, value)] * 4}, label=label)
    with pytest.raises(InputError, match=rf"data.name is 'made_up', {said}: name a data set whose labels are classes"):
        datasets.load(Data("made_up", stream=stream), tmp_path)


@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_split_is_refused(tmp_path, stream):
    prepared.write(tmp_path, {"train": [(GREY, 7)] * 4, "test": []})
    with pytest.raises(InputError, match=r"data.name is 'made_up', whose split test holds no images"):
        datasets.load(Data("made_up", stream=stream), tmp_path)


def test_files_that_are_gone_are_said(tmp_path):
    prepared.write(tmp_path, {"train": [(GREY, 7)] * 4, "test": [(GREY, 7)] * 4})
    for path in tmp_path.rglob("*.array_record*"):
        path.unlink()
    with pytest.raises(InputError, match=r"record 0 of made_up train: .*No such file"):
        datasets.load(Data("made_up"), tmp_path)
