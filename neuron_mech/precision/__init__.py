"""The precision of matrix products and convolutions: all of it is decided here.

By default JAX multiplies float32 arrays in TF32 on a GPU and in bfloat16 on a TPU. That is too imprecise for the sign
of a derivative that is a sum of thousands of nearly cancelling terms. So functions that record signs go through
`at("exact", ...)`, which computes every product in them to float32's precision on any device, whatever
JAX_DEFAULT_MATMUL_PRECISION says:

- on an NVIDIA GPU, from three products of shorter operands on its tensor cores (`splitting`);
- on a TPU and elsewhere, with JAX's precision `highest`, which on a CPU is plain float32.
"""

from neuron_mech.precision.doubled import doubled as doubled
from neuron_mech.precision.exact import Arithmetic as Arithmetic
from neuron_mech.precision.exact import Precision as Precision
from neuron_mech.precision.exact import at as at
from neuron_mech.precision.exact import exact as exact
from neuron_mech.precision.exact import multiplying as multiplying
from neuron_mech.precision.rewriting import Product as Product
from neuron_mech.precision.rewriting import rewritten as rewritten
from neuron_mech.precision.shifted import shifted as shifted
from neuron_mech.precision.shifted import unfolded as unfolded
from neuron_mech.precision.splitting import BFLOAT16 as BFLOAT16
from neuron_mech.precision.splitting import TF32 as TF32
from neuron_mech.precision.splitting import imitated as imitated
