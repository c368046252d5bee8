"""A float32 product from three products of short operands, on hardware that multiplies those many times faster.

A tensor core takes float32 operands, drops all but the first eleven bits of each (TF32), multiplies what is left, and
adds the products up. An operand is therefore given to it in two parts, x = high + low: `high` is x rounded to ten bits,
`low` the rest of it, rounded to eleven. Then

x · y = high_x · high_y + (high_x · low_y + low_x · high_y) + low_x · low_y

where the last product is some 2⁻²⁰ of the first and is left out. What is lost then is lost in the sum: a tensor core
cuts off, where float32 rounds, what does not fit beside the sum so far, always towards zero, so that the error grows
with the number of terms. Two things keep it small. The large product is summed in short runs of terms, which float32
adds up; and `high` has one bit less than would fit, so that its products have two bits less that can be cut off.

Measured on an H200, on a convolutional network in training (twelve layers, runs of up to 4,608 terms): of the signs of
derivatives at the first layer 1.9 % are wrong from one product, 0.092 % from three of eleven bits, 0.064 % with ten
bits in `high`, 0.017 % with short runs too, and 0.015 % in float32, at 2.5 times the time. See Ootomo & Yokota,
"Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance" (2022).
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jax.lax import Precision as Lax

from neuron_mech.precision.rewriting import Multiply, Product


class Format(NamedTuple):
    """A floating-point format by its bits, as `lax.reduce_precision` takes them."""

    exponent: int
    mantissa: int


TF32 = Format(8, 10)
"""What a tensor core keeps of a float32 operand: eleven bits, the first of which is not stored."""

HIGH = Format(8, 9)
"""What `high` keeps: one bit less."""

BFLOAT16 = Format(8, 7)

SHORT = 128
"""Sums of so few terms are left whole; longer ones are summed in two runs at least."""

RUN = 1152
"""Terms in a run, at most: 128 features at nine places of a kernel."""


def rounded(value: jax.Array, form: Format) -> jax.Array:
    """The nearest number of a shorter format, in the type of `value`; ties to even."""
    return jax.lax.reduce_precision(value, form.exponent, form.mantissa)


def parts(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(high, low), which add up to `value` to twenty-one bits. Where `high` is not finite, `low` is zero."""
    high = rounded(value, HIGH)
    rest = jnp.where(jnp.isfinite(high), value - high, jnp.zeros((), value.dtype))
    return high, rounded(rest, TF32)


def in_three_passes(equation: JaxprEqn, multiply: Multiply, left: jax.Array, right: jax.Array) -> jax.Array:
    """The product of two float32 arrays that `equation` says, from products of `parts` by `multiply`."""
    left_high, left_low = parts(left)
    right_high, right_low = parts(right)
    # The small products first: added to the large one they would lose what they are there for.
    total = multiply(left_high, right_low) + multiply(left_low, right_high)
    for left_run, right_run in runs(equation, left_high, right_high):
        total = total + multiply(left_run, right_run)
    return total


def runs(equation: JaxprEqn, left: jax.Array, right: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Operands of the same product over a part of the terms each; together they have every term once."""
    params = equation.params
    if "window_strides" in params:
        if params["feature_group_count"] > 1:
            return [(left, right)]  # a group has few terms, and its features are not neighbours
        numbers = params["dimension_numbers"]
        axes = [(numbers.lhs_spec[1], numbers.rhs_spec[1])]
        places = math.prod(right.shape[axis] for axis in numbers.rhs_spec[2:])
    else:
        (contracted, with_), _ = params["dimension_numbers"]
        axes, places = list(zip(contracted, with_, strict=True)), 1
    if not axes:
        return [(left, right)]
    terms = places * math.prod(left.shape[axis] for axis, _ in axes)
    here, there = max(axes, key=lambda pair: left.shape[pair[0]])
    features = left.shape[here]
    count = 1 if terms <= SHORT else min(features, max(2, -(-terms // RUN)))
    edges = [features * k // count for k in range(count + 1)]
    return [
        (
            jax.lax.slice_in_dim(left, start, stop, axis=here),
            jax.lax.slice_in_dim(right, start, stop, axis=there),
        )
        for start, stop in itertools.pairwise(edges)
    ]


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
