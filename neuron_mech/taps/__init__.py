"""Read, differentiate and replace the pre-activations of any Linen module at named sites, without editing it.

A site is a submodule's path, `dense1` or `stage2/block0/conv`. At a `Neurons` module, and at a bare activation function
such as `:relu`, the pre-activation is what goes in and the activation what comes out. Any other submodule is a site
too, with its *output* as the pre-activation. `finding` says how all of them are named.

All functions take the module itself, not a function that was jitted before; jit what you build from them. The model is
traced to its list of operations, with marks where modules begin and end (`marking`, `programs`), and these operations
are run with values read, replaced or added to (`running`). So sites inside `nn.scan`, `nn.jit`, `nn.remat`, `nn.vmap`
and their NNX counterparts are reached like any others.

What is refused, each with a `SiteError` that says what to do: a name that is no site; the bare name of a module that
is used several times; a module inside a `while` loop, a condition or a function with a derivative of its own; values
without the batch among their axes; a perturbation whose shape is not the site's own.
"""

from neuron_mech.taps.backward import agreeing, backward_edit, flipped, frozen_signs
from neuron_mech.taps.edits import below, edited, read
from neuron_mech.taps.finding import Site, SiteError, SiteWarning, batch_size, fitting, in_half, select, sites
from neuron_mech.taps.gradients import PerSampleLoss, activation_gradients, per_sample_gradients, perturbed, zeros
from neuron_mech.taps.inputs import Inputs, arguments, bound
from neuron_mech.taps.running import Edit

__all__ = [
    "Edit",
    "Inputs",
    "PerSampleLoss",
    "Site",
    "SiteError",
    "SiteWarning",
    "activation_gradients",
    "agreeing",
    "arguments",
    "backward_edit",
    "batch_size",
    "below",
    "bound",
    "edited",
    "fitting",
    "flipped",
    "frozen_signs",
    "in_half",
    "per_sample_gradients",
    "perturbed",
    "read",
    "select",
    "sites",
    "zeros",
]
