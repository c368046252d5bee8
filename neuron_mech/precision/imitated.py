"""Products with operands rounded as on another device, imitated on a device that multiplies float32."""

import jax
from jax.extend.core import JaxprEqn
from jax.lax import Precision as Lax

from neuron_mech.precision.rewriting import Multiply, Product
from neuron_mech.precision.splitting import Format, in_three_passes, rounded


def imitated(form: Format, passes: int = 1) -> Product:
    """For `rewritten`: products of float32 operands that are rounded to `form` first, in one pass or in three.

    One pass of TF32 is the default of a GPU, one pass of bfloat16 that of a TPU, and three passes are `exact` on a GPU.
    Sums are those of float32; a tensor core's are slightly worse. Raises ValueError for another number of passes.
    """
    if passes not in (1, 3):
        raise ValueError(f"passes={passes}: one or three")

    def product(equation: JaxprEqn, as_it_is: Multiply, left: jax.Array, right: jax.Array) -> jax.Array:
        def once(left: jax.Array, right: jax.Array) -> jax.Array:
            return as_it_is(rounded(left, form), rounded(right, form), precision=(Lax.HIGHEST, Lax.HIGHEST))

        return once(left, right) if passes == 1 else in_three_passes(equation, once, left, right)

    return product
