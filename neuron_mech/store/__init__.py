"""Files of a run: its directory, results, checkpoints and provenance, each written whole or not at all, no pickles.

runs/PRESET/config.json  identity.json  checkpoints/  train.nc  gradient_signs.nc  figures/*.png, *.svg
"""

from neuron_mech.store.checksums import all_lost, lost, owed, step, whole, write_result, write_result_text
from neuron_mech.store.directory import bind, held, opened, read_config, seed_directories
from neuron_mech.store.labelled import (
    FORMAT,
    FormatError,
    about,
    arrays,
    exists,
    load,
    of_site,
    read_dataset,
    selectable,
    stacked,
    variable,
    write_dataset,
)

__all__ = [
    "FORMAT",
    "FormatError",
    "about",
    "all_lost",
    "arrays",
    "bind",
    "exists",
    "held",
    "load",
    "lost",
    "of_site",
    "opened",
    "owed",
    "read_config",
    "read_dataset",
    "seed_directories",
    "selectable",
    "stacked",
    "step",
    "variable",
    "whole",
    "write_dataset",
    "write_result",
    "write_result_text",
]
