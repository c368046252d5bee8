"""How a hidden neuron learns: gradient signs of single samples, recorded through training, in JAX and Flax.

List, read, differentiate, replace and record the neurons of any Flax model, without editing it. A model is a Linen
module and its variables; `from_nnx` makes these of an NNX model.
"""

from neuron_mech.recording.live import LiveView
from neuron_mech.recording.online import Online
from neuron_mech.recording.plan import Plan
from neuron_mech.recording.planner import online, plan, recorder
from neuron_mech.recording.reading import SignHealthWarning
from neuron_mech.recording.recorder import Recorder
from neuron_mech.recording.replacing import gradients, read, replace, signs
from neuron_mech.store.labelled import load
from neuron_mech.taps.inputs import Inputs
from neuron_mech.taps.naming import sites
from neuron_mech.taps.nnx_models import from_nnx, variables
from neuron_mech.taps.objectives import margin

__version__ = "0.1.0"

__all__ = [
    "Inputs",
    "LiveView",
    "Online",
    "Plan",
    "Recorder",
    "SignHealthWarning",
    "from_nnx",
    "gradients",
    "load",
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
