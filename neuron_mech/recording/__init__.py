"""Recording while training: which gradients are counted in each mode, and the segment, the unit of a run's work.

A run is a fixed list of segments. `study` says what is recorded, `epochs` in which order samples come, `passes` how one
recording is made, and `segments` puts recordings and training steps together.
"""

from neuron_mech.recording.epochs import Epoch, Steps, end_epoch, plan_epoch
from neuron_mech.recording.passes import Group, groups, in_chunks, record, record_chunk, recorder
from neuron_mech.recording.segments import advancing, segment
from neuron_mech.recording.study import (
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
    "Counts",
    "Epoch",
    "Group",
    "Steps",
    "Study",
    "Tallies",
    "advancing",
    "collected",
    "dealt",
    "distinct",
    "end_epoch",
    "groups",
    "held",
    "in_chunks",
    "plan_epoch",
    "random_ids",
    "record",
    "record_chunk",
    "recorded_neurons",
    "recorder",
    "segment",
]
