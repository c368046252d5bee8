"""Read, differentiate and replace the pre-activations of any Linen module at named sites, without editing it.

A site is a submodule's path, `dense1` or `stage2/block0/conv`. At a `Neurons` module the pre-activation is its input
and the activation its output. Any other submodule is a site too, with its *output* as the pre-activation: a stock
`nn.Dense` or `nn.Conv` followed by a bare `nn.relu`, which no one outside can see, so the activation is out of reach.

Everything here takes the module itself, never a function somebody has jitted. Jit what you build from these functions,
not what you hand them.

What is refused, each with a `SiteError` that says what to do: a name that is no site; the bare name of a module that
is used several times; a module inside an `nn.scan` or `nn.vmap` that keeps intermediates to itself; a perturbation
whose shape is not the site's own, which would broadcast and sum the gradients of several samples.
"""

from neuron_mech.taps.backward import agreeing, backward_edit, flipped, frozen_signs
from neuron_mech.taps.edits import Edit, below, edited, read
from neuron_mech.taps.finding import LAYERS, LOOK, Site, SiteError, batch_size, fitting, path_of, select, sites
from neuron_mech.taps.gradients import PerSampleLoss, activation_gradients, per_sample_gradients, perturbed, zeros

__all__ = [
    "LAYERS",
    "LOOK",
    "Edit",
    "PerSampleLoss",
    "Site",
    "SiteError",
    "activation_gradients",
    "agreeing",
    "backward_edit",
    "batch_size",
    "below",
    "edited",
    "fitting",
    "flipped",
    "frozen_signs",
    "path_of",
    "per_sample_gradients",
    "perturbed",
    "read",
    "select",
    "sites",
    "zeros",
]
