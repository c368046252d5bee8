"""Activation functions in a program: a bare `nn.relu`, `nn.gelu` or softmax, found by what JAX says of its operations.

No module is called there, so that nothing can be marked. But an operation knows which function of JAX's wrote it: by
its name where the function is compiled by itself, and otherwise by the calls that led to it.
"""

import os
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from neuron_mech.precision import rewriting

NAMES = frozenset(name for name in dir(jax.nn) if callable(getattr(jax.nn, name))) - {
    *("dot_product_attention", "identity", "one_hot", "standardize", "scaled_matmul", "scaled_dot_general"),
    *("get_scaled_dot_general_config", "logsumexp", "logmeanexp", "log1mexp"),
}
"""JAX's activation functions, softmax among them."""

OPERATIONS = {"tanh": "tanh", "logistic": "sigmoid"}
"""Operations that are a function of their own."""

_FILE = os.path.join("jax", "_src", "nn", "functions.py")


@dataclass(frozen=True)
class Call:
    """One call of a function: the operations `first` to `last`, what goes in, and what comes out."""

    name: str
    first: int
    last: int
    operand: Any
    result: Any


def calls(jaxpr: Any) -> dict[int, Call]:
    """{first operation: call} of the functions in a program, without the programs that its operations hold."""
    found = {}
    named = [(index, _function(equation)) for index, equation in enumerate(jaxpr.eqns)]
    for key, group in groupby(named, key=lambda pair: pair[1]):
        indices = [index for index, _ in group]
        if key and (call := _call(jaxpr, key[0], indices[0], indices[-1])):
            found[indices[0]] = call
    return found


def _function(equation: Any) -> tuple[str, Any] | None:
    """(name, what tells this call from others) of the function that wrote an operation."""
    name = equation.params.get("name")
    if equation.primitive.name == "custom_jvp_call":
        name = next((inner.params.get("name") for inner in rewriting.programs(equation)[0].eqns[:1]), None)
    if name in NAMES and equation.outvars:  # what nobody asks for may have been cut to nothing
        return name, equation.outvars[0]  # compiled by itself, it is one operation
    traceback = equation.source_info.traceback
    frames = traceback.frames if traceback else []
    for depth in reversed(range(len(frames))):
        if frames[depth].function_name in NAMES and frames[depth].file_name.endswith(_FILE):
            return frames[depth].function_name, tuple((at.file_name, at.line_num) for at in frames[depth + 1 :])
    if equation.primitive.name in OPERATIONS:
        return OPERATIONS[equation.primitive.name], equation.outvars[0]
    return None


def _call(jaxpr: Any, name: str, first: int, last: int) -> Call | None:
    """Of the operations, the call: None where not one array of floats goes in and one comes out, of one shape."""
    inside = jaxpr.eqns[first : last + 1]
    made = {var for equation in inside for var in equation.outvars}
    after = [var for equation in jaxpr.eqns[last + 1 :] for var in equation.invars] + list(jaxpr.outvars)
    later = {var for var in after if not isinstance(var, jex.Literal)}
    results = [var for equation in inside for var in equation.outvars if var in later]
    if len(results) != 1 or not jnp.issubdtype(results[0].aval.dtype, jnp.floating):
        return None
    (result,) = results
    given = [
        var
        for equation in inside
        for var in equation.invars
        if not isinstance(var, jex.Literal) and var not in made and var.aval.shape == result.aval.shape
    ]
    if not given or not jnp.issubdtype(given[0].aval.dtype, jnp.floating) or not result.aval.shape:
        return None
    return Call(name, first, last, given[0], result)
