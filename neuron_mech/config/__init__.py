"""The configuration of a run: its fields and their limits, the named presets, and random streams from its seed."""

from neuron_mech.config.fields import (
    Config,
    Data,
    Derivative,
    Model,
    Objective,
    Record,
    Train,
    Watch,
    differences,
    fields,
    numbered,
)
from neuron_mech.config.limits import HUGE, LIMITS, TINY, WHOLE, Limits, check_once
from neuron_mech.config.presets import PRESETS
from neuron_mech.config.random_streams import random_stream

__all__ = [
    "HUGE",
    "LIMITS",
    "PRESETS",
    "TINY",
    "WHOLE",
    "Config",
    "Data",
    "Derivative",
    "Limits",
    "Model",
    "Objective",
    "Record",
    "Train",
    "Watch",
    "check_once",
    "differences",
    "fields",
    "numbered",
    "random_stream",
]
