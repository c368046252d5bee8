"""A convolution as a sum of matrix products, one for each place of its kernel.

out[n, y, x, o] = sum over (i, j) of  in[n, y + i, x + j, :] @ kernel[i, j, :, o]

Matrix products are the operation that every processor is fast at: in double precision, where convolutions are slow on a
CPU; and mapped over kernels, where a convolution becomes one of many groups and a matrix product one of many batches.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from neuron_mech.precision.rewriting import Multiply

MANY = 64
"""Places of a kernel above which a convolution stays one: as many products would be no faster."""


def shifted(equation: JaxprEqn, as_it_is: Multiply, left: jax.Array, right: jax.Array) -> jax.Array:
    """For `rewritten`: convolutions as matrix products, one for each place, and matrix products as they are."""
    return _as_products(equation, as_it_is, left, right, unfolding=False)


def unfolded(equation: JaxprEqn, as_it_is: Multiply, left: jax.Array, right: jax.Array) -> jax.Array:
    """For `rewritten`: convolutions as one product each, of all places side by side, and matrix products as they are.

    A convolution in groups is `shifted`.
    """
    return _as_products(equation, as_it_is, left, right, unfolding=True)


def _as_products(
    equation: JaxprEqn, as_it_is: Multiply, left: jax.Array, right: jax.Array, unfolding: bool
) -> jax.Array:
    if "window_strides" not in equation.params:
        return as_it_is(left, right)
    if math.prod(right.shape[axis] for axis in equation.params["dimension_numbers"].rhs_spec[2:]) > MANY:
        return as_it_is(left, right)
    return convolution(left, right, unfolding=unfolding, **equation.params)


def convolution(
    left: jax.Array,
    right: jax.Array,
    *,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    unfolding: bool = False,
    **_: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` with the parameters of a traced one: `padding` and `dimension_numbers` spelt out.

    `unfolding` puts all places of the kernel side by side for one product, where there are no groups.
    """
    sample, feature, *space = dimension_numbers.lhs_spec
    outputs, inputs, *kernel = dimension_numbers.rhs_spec
    borders: list[tuple[int, int, int]] = [(0, 0, 0)] * left.ndim
    for axis, (low, high), dilation in zip(space, padding, lhs_dilation, strict=True):
        borders[axis] = (low, high, dilation - 1)
    wide = jax.lax.pad(left, jnp.zeros((), left.dtype), borders)
    groups = max(feature_group_count, batch_group_count)
    grouped = feature if feature_group_count > 1 else sample
    parts, matrices = [], []
    for place in itertools.product(*(range(right.shape[axis]) for axis in kernel)):
        start, stop, stride = [0] * wide.ndim, list(wide.shape), [1] * wide.ndim
        for axis, offset, step, dilation, k in zip(space, place, window_strides, rhs_dilation, kernel, strict=True):
            reach = dilation * (right.shape[k] - 1)
            start[axis], stride[axis] = dilation * offset, step
            stop[axis] = wide.shape[axis] - reach + start[axis]
        parts.append(jax.lax.slice(wide, start, stop, stride))
        matrix = right[tuple(place[kernel.index(a)] if a in kernel else slice(None) for a in range(right.ndim))]
        matrices.append(matrix.T if inputs > outputs else matrix)  # (inputs, outputs)
    if unfolding and groups == 1:
        parts, matrices = [jnp.concatenate(parts, feature)], [jnp.concatenate(matrices)]
    total: Any = None
    for part, matrix in zip(parts, matrices, strict=True):
        found = _product(part, matrix, feature, grouped, groups, precision)
        total = found if total is None else total + found
    # The product's axes: those of the left operand without its features, in their order, then the outputs.
    axes = [axis for axis in range(left.ndim) if axis != feature]
    order = {axis: axes.index(axis) for axis in axes} | {feature: len(axes)}
    back = [0] * left.ndim
    for source, target in zip(dimension_numbers.lhs_spec, dimension_numbers.out_spec, strict=True):
        back[target] = order[source]
    return total.transpose(back)


def _product(part: jax.Array, matrix: jax.Array, feature: int, grouped: int, groups: int, precision: Any) -> jax.Array:
    """The left operand's features times the matrix, group by group: its other axes in order, then the outputs."""
    if groups == 1:
        return jax.lax.dot_general(part, matrix, (((feature,), (0,)), ((), ())), precision=precision)
    shape = (*part.shape[:grouped], groups, part.shape[grouped] // groups, *part.shape[grouped + 1 :])
    features = feature + (grouped <= feature)
    matrices = jnp.moveaxis(matrix.reshape(len(matrix), groups, -1), 1, 0)  # (groups, inputs, outputs of one)
    sums = (((features,), (1,)), ((grouped,), (0,)))
    found = jax.lax.dot_general(part.reshape(shape), matrices, sums, precision=precision)
    found = jnp.moveaxis(found, 0, -2)  # (other axes, groups, outputs of one)
    return found.reshape(*found.shape[:-2], -1)
