"""A float32 product from three products of short operands, on hardware that multiplies those many times faster.

A tensor core takes float32 operands, drops all but the first eleven bits of each, and multiplies what is left (TF32).
An operand is therefore given to it in two parts, x = high + low: `high` is x rounded to eleven bits, `low` the rest,
which has eleven bits too, all but the last one or two of the 24. Then

x · y = high_x · high_y + (high_x · low_y + low_x · high_y) + low_x · low_y

where the last product is below 2⁻²² of the first and is left out. Rounding to nearest matters: cut off instead, `high`
would be too small by up to a whole unit, and `low` one bit too long. See Ootomo & Yokota, "Recovering single precision
accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance" (2022).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from neuron_mech.precision.rewriting import Multiply


class Format(NamedTuple):
    """A floating-point format by its bits, as `lax.reduce_precision` takes them."""

    exponent: int
    mantissa: int


TF32 = Format(8, 10)
BFLOAT16 = Format(8, 7)


def rounded(value: jax.Array, form: Format) -> jax.Array:
    """The nearest number of a shorter format, in the type of `value`; ties to even."""
    return jax.lax.reduce_precision(value, form.exponent, form.mantissa)


def parts(value: jax.Array, form: Format, count: int = 2) -> list[jax.Array]:
    """Numbers of a shorter format that add up to `value`, each the rounded rest of those before it.

    Where `value` is not finite, or rounds to infinity, it is the first part and the others are zero.
    """
    found: list[jax.Array] = []
    for _ in range(count):
        part = rounded(value, form)
        value = jnp.where(jnp.isfinite(part), value - part, jnp.zeros((), value.dtype))
        found.append(part)
    return found


def in_three_passes(multiply: Multiply, left: jax.Array, right: jax.Array, form: Format = TF32) -> jax.Array:
    """The product of two arrays from three of shorter operands; `multiply` is exact for operands of format `form`."""
    left_high, left_low = parts(left, form)
    right_high, right_low = parts(right, form)
    # The small products first: added to the large one they would lose what they are there for.
    return multiply(left_high, right_low) + multiply(left_low, right_high) + multiply(left_high, right_high)
