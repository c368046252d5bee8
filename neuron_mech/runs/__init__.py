"""A run from its first segment to its last: recordings and training steps, saved and resumed to the same bits."""

from neuron_mech.cluster.stopping import STOPPING as STOPPING
from neuron_mech.runs.loop import Run as Run
from neuron_mech.runs.loop import check_trained_here as check_trained_here
from neuron_mech.runs.loop import run as run
from neuron_mech.runs.segments import advancing as advancing
from neuron_mech.runs.segments import plan_epoch as plan_epoch
from neuron_mech.runs.segments import segment as segment
from neuron_mech.runs.study import Study as Study
from neuron_mech.runs.study import random_ids as random_ids
