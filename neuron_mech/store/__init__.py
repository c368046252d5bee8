"""What is on disk: a run's directory, its results, checkpoints and provenance; whole or absent, and never a pickle.

runs/PRESET/config.json  identity.json  checkpoints/  train.nc  gradient_signs.nc  figures/*.png, *.svg
"""

from neuron_mech.store.checksums import (
    CHECKSUMS,
    FOLDERS,
    RUN,
    all_lost,
    lost,
    owed,
    step,
    whole,
    write_result,
    write_result_text,
)
from neuron_mech.store.directory import bind, held, opened, read_config, seed_directories
from neuron_mech.store.labelled import about, arrays, exists, read_dataset, write_dataset

__all__ = [
    "CHECKSUMS",
    "FOLDERS",
    "RUN",
    "about",
    "all_lost",
    "arrays",
    "bind",
    "exists",
    "held",
    "lost",
    "opened",
    "owed",
    "read_config",
    "read_dataset",
    "seed_directories",
    "step",
    "whole",
    "write_dataset",
    "write_result",
    "write_result_text",
]
