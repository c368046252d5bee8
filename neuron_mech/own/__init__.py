"""Your own model: list, read, differentiate, replace and record the neurons of any Flax model, without editing it.

A model is a Linen module and its variables; `from_nnx` makes these of an NNX model.
"""

from neuron_mech.objectives import margin
from neuron_mech.own.checks import SignHealthWarning
from neuron_mech.own.naming import sites
from neuron_mech.own.nnx_models import from_nnx, variables
from neuron_mech.own.online import Online, online
from neuron_mech.own.planner import Plan, plan, recorder
from neuron_mech.own.recorder import Recorder
from neuron_mech.own.replacing import read, replace, signs

__all__ = [
    "Online",
    "Plan",
    "Recorder",
    "SignHealthWarning",
    "from_nnx",
    "margin",
    "online",
    "plan",
    "read",
    "recorder",
    "replace",
    "signs",
    "sites",
    "variables",
]
