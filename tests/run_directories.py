"""Run directories as they are before anything is saved."""

from pathlib import Path

import xarray as xr

from neuron_mech import store
from neuron_mech.config import PRESETS


def begun(directory: Path) -> Path:
    """A run of digits that has been opened, with a result file of its training."""
    with store.opened(directory, PRESETS["digits"]):
        (directory / "figures").mkdir()
        (directory / "trajectories").mkdir()
        store.write_dataset(directory / "train.nc", training())
    return directory


def training(**attributes) -> xr.Dataset:
    return xr.Dataset(
        {"train_accuracy": ("epoch", [0.5]), "test_accuracy": ("epoch", [0.5])},
        {"epoch": [1]},
        {"preset": "digits", "seed": 0, **attributes},
    )
