"""A run from its first segment to its last: recordings and training steps, saved and resumed to the same bits.

A run is a fixed list of segments. `study` says what is recorded, `epochs` in which order samples come, `passes` how one
recording is made, and `segments` puts recordings and training steps together.
"""

from neuron_mech.runs.epochs import Epoch, Steps, end_epoch, plan_epoch
from neuron_mech.runs.loop import STOPPING, Run, check_trained_here, data, run
from neuron_mech.runs.passes import Group, groups, record, record_chunk, recorder
from neuron_mech.runs.segments import advancing, segment
from neuron_mech.runs.study import (
    Counts,
    Study,
    Tallies,
    collected,
    dealt,
    distinct,
    held,
    random_ids,
    recorded_neurons,
)

__all__ = [
    "STOPPING",
    "Counts",
    "Epoch",
    "Group",
    "Run",
    "Steps",
    "Study",
    "Tallies",
    "advancing",
    "check_trained_here",
    "collected",
    "data",
    "dealt",
    "distinct",
    "end_epoch",
    "groups",
    "held",
    "plan_epoch",
    "random_ids",
    "record",
    "record_chunk",
    "recorded_neurons",
    "recorder",
    "run",
    "segment",
]
