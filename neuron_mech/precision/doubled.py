"""A function for single precision, computed in double: the same operations, and the same random numbers.

If a model were traced again with double precision allowed, it would still cast to the types that it names, and draw
other random numbers. So its operations, as traced in single precision, are run with float64 instead of shorter floats.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from neuron_mech.precision.rewriting import programs

_INLINE = {"jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint"}
_DERIVATIVES = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
_TYPES = ("new_dtype", "preferred_element_type", "dtype")
_BITS = {"bitcast_convert_type", "random_gamma", "random_bits", "rng_uniform", "rng_bit_generator"}
"""Operations that must keep their types, since they make floats from random bits."""


def doubled(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """`function` in float64, for arguments of these shapes; run it with `jax_enable_x64`.

    Only plain operations, loops and conditions are doubled; others stay in single precision. Differentiate inside it.
    """
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)

    def run(*args: Any) -> Any:
        out = _evaluate(traced.jaxpr, traced.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return run


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), map(_double, (*consts, *args)), strict=True))

    def value(name: Any) -> Any:
        return (
            _double(jnp.asarray(name.val, getattr(name.aval, "dtype", None)))
            if isinstance(name, jex.Literal)
            else values[name]
        )

    for equation in jaxpr.eqns:
        with equation.ctx.manager:
            out = _run(equation, [value(name) for name in equation.invars])
        values.update(zip(equation.outvars, map(_double, out), strict=True))
    return [value(name) for name in jaxpr.outvars]


def _run(equation: jex.JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    primitive, params, name = equation.primitive, dict(equation.params), equation.primitive.name
    inside = [(one, getattr(one, "consts", ())) for one in programs(equation)]
    if name in _INLINE or name in _DERIVATIVES:
        return _evaluate(*inside[0], operands)
    if name == "scan":
        return _scan(params, inside[0], operands)
    if name == "cond":
        branches = [partial(_branch, jaxpr, consts) for jaxpr, consts in inside]
        return jax.lax.switch(operands[0], branches, *operands[1:])
    if name == "while":
        return _while(params, operands)
    if name == "reduce_precision":
        return operands
    if name in _BITS or inside:
        kinds = [getattr(name.aval, "dtype", None) for name in equation.invars]
        operands = [_as(operand, kind) for operand, kind in zip(operands, kinds, strict=True)]
    else:
        params |= {key: jnp.float64 for key in _TYPES if key in params and _is_float(params[key])}
    out = primitive.bind(*operands, **primitive.get_bind_params(params))
    return out if primitive.multiple_results else [out]


def _branch(jaxpr: Any, consts: Sequence[Any], *args: Any) -> list[Any]:
    return _evaluate(jaxpr, consts, args)


def _scan(params: dict[str, Any], inside: tuple[Any, Any], operands: list[Any]) -> list[Any]:
    fixed, carried = scan_operands(params)

    def turn(carry: list[Any], each: list[Any]) -> tuple[list[Any], list[Any]]:
        out = _evaluate(*inside, [*operands[:fixed], *carry, *each])
        return out[:carried], out[carried:]

    how = {name: params[name] for name in ("length", "reverse", "unroll")}
    last, outs = jax.lax.scan(turn, operands[fixed : fixed + carried], operands[fixed + carried :], **how)
    return [*last, *outs]


def _while(params: dict[str, Any], operands: list[Any]) -> list[Any]:
    tests, bodies = params["cond_nconsts"], params["body_nconsts"]
    test, body = (getattr(params[name], "jaxpr", params[name]) for name in ("cond_jaxpr", "body_jaxpr"))
    consts = {name: getattr(params[name], "consts", ()) for name in ("cond_jaxpr", "body_jaxpr")}
    return jax.lax.while_loop(
        lambda now: _evaluate(test, consts["cond_jaxpr"], [*operands[:tests], *now])[0],
        lambda now: _evaluate(body, consts["body_jaxpr"], [*operands[tests : tests + bodies], *now]),
        operands[tests + bodies :],
    )


def scan_operands(params: Any) -> tuple[int, int]:
    """(operands that are the same in each turn, operands that a turn hands to the next) of a traced loop."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    fixed, carried, _ = params["ft_in"].unpack()
    return len(fixed), len(carried)


def _is_float(kind: Any) -> bool:
    return kind is not None and jnp.issubdtype(kind, jnp.floating)


def _double(value: Any) -> Any:
    kind = getattr(value, "dtype", None)
    return value.astype(jnp.float64) if _is_float(kind) and kind != np.float64 else value


def _as(value: Any, kind: Any) -> Any:
    return value.astype(kind) if _is_float(kind) and value.dtype != kind else value
