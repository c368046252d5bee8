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

from neuron_mech.taps.backward import agreeing as agreeing
from neuron_mech.taps.backward import backward_edit as backward_edit
from neuron_mech.taps.backward import flipped as flipped
from neuron_mech.taps.backward import frozen_signs as frozen_signs
from neuron_mech.taps.edits import below as below
from neuron_mech.taps.edits import edited as edited
from neuron_mech.taps.edits import read as read
from neuron_mech.taps.finding import Site as Site
from neuron_mech.taps.finding import SiteError as SiteError
from neuron_mech.taps.finding import SiteWarning as SiteWarning
from neuron_mech.taps.finding import batch_size as batch_size
from neuron_mech.taps.finding import fitting as fitting
from neuron_mech.taps.finding import looked_at as looked_at
from neuron_mech.taps.finding import select as select
from neuron_mech.taps.finding import sites as sites
from neuron_mech.taps.finding import usual as usual
from neuron_mech.taps.gradients import PerSampleLoss as PerSampleLoss
from neuron_mech.taps.gradients import activation_gradients as activation_gradients
from neuron_mech.taps.gradients import per_sample_gradients as per_sample_gradients
from neuron_mech.taps.gradients import perturbed as perturbed
from neuron_mech.taps.gradients import zeros as zeros
from neuron_mech.taps.inputs import Inputs as Inputs
from neuron_mech.taps.inputs import arguments as arguments
from neuron_mech.taps.inputs import bound as bound
from neuron_mech.taps.running import Edit as Edit
