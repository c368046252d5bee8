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

from neuron_mech.precision.rewriting import evaluate, programs, turned

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
    return evaluate(jaxpr, consts, args, _run, _double)


def _run(equation: jex.JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    primitive, params, name = equation.primitive, dict(equation.params), equation.primitive.name
    inside = [(one, getattr(one, "consts", ())) for one in programs(equation)]
    if name in _INLINE or name in _DERIVATIVES:
        return _evaluate(*inside[0], operands)
    if name == "scan":
        return turned(params, operands, lambda args, _: (_evaluate(*inside[0], args), None), None)[0]
    if name == "cond":
        branches = [partial(_evaluate, jaxpr, consts) for jaxpr, consts in inside]
        return jax.lax.switch(operands[0], branches, operands[1:])
    if name == "while":
        return _while(params, operands)
    if name == "reduce_precision":
        return operands
    if name in _BITS or inside:
        kinds = (getattr(name.aval, "dtype", None) for name in equation.invars)
        operands = [one.astype(k) if _is_float(k) else one for one, k in zip(operands, kinds, strict=True)]
    else:
        params |= {key: jnp.float64 for key in _TYPES if key in params and _is_float(params[key])}
    out = primitive.bind(*operands, **primitive.get_bind_params(params))
    return out if primitive.multiple_results else [out]


def _while(params: dict[str, Any], operands: list[Any]) -> list[Any]:
    tests, bodies = params["cond_nconsts"], params["body_nconsts"]
    test, body = (getattr(params[name], "jaxpr", params[name]) for name in ("cond_jaxpr", "body_jaxpr"))
    consts = {name: getattr(params[name], "consts", ()) for name in ("cond_jaxpr", "body_jaxpr")}
    return jax.lax.while_loop(
        lambda now: _evaluate(test, consts["cond_jaxpr"], [*operands[:tests], *now])[0],
        lambda now: _evaluate(body, consts["body_jaxpr"], [*operands[tests : tests + bodies], *now]),
        operands[tests + bodies :],
    )


def _is_float(kind: Any) -> bool:
    return kind is not None and jnp.issubdtype(kind, jnp.floating)


def _double(value: Any, of: Any) -> Any:
    """A value in double precision; a plain number as an array of the type that it has in the program."""
    here = jnp.asarray(value, of.dtype) if isinstance(value, int | float | complex) else value
    kind = getattr(here, "dtype", None)
    return here.astype(jnp.float64) if _is_float(kind) and kind != np.float64 else here
