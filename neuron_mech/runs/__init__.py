"""A run from its first segment to its last: recordings and training steps, saved and resumed to the same bits."""

from neuron_mech.cluster.stopping import STOPPING
from neuron_mech.runs.epochs import plan_epoch
from neuron_mech.runs.loop import Run, check_trained_here, run
from neuron_mech.runs.segments import advancing, segment
from neuron_mech.runs.study import Study, random_ids

__all__ = [
    "STOPPING",
    "Run",
    "Study",
    "advancing",
    "check_trained_here",
    "plan_epoch",
    "random_ids",
    "run",
    "segment",
]
