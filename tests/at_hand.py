"""Data sets that must be prepared beforehand."""

import pytest

from neuron_mech.config import Data
from neuron_mech.errors import InputError
from neuron_mech.training import datasets


def at_hand(data: Data) -> datasets.Dataset:
    """A data set, or of its images only the first: to read all takes seconds. The test is skipped where it is not."""
    try:
        return datasets.load(data)
    except InputError as error:
        pytest.skip(f"{data.name} is not prepared in TFDS_DATA_DIR: {error}")
