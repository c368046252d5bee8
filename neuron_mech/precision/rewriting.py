"""A function with every matrix product and convolution in it computed in another way.

The function is traced to JAX's own list of operations, which is then run with the products exchanged: those of loops,
branches and inner `jit`s too, of any model, and those that differentiation made. What comes out is a pure JAX function
again, to be jitted, mapped or differentiated.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.extend.core as jex
from jax.extend.core import primitives

Multiply = Callable[..., jax.Array]
"""(left operand, right operand, **settings) -> their product: one matrix product or convolution, and how it is done."""

Product = Callable[[jex.JaxprEqn, Multiply, jax.Array, jax.Array], jax.Array]
"""(the operation, the operation as it is with settings of its own, left operand, right operand) -> its result."""

PRODUCTS = (primitives.dot_general_p, primitives.conv_general_dilated_p)

_CONTAINERS = {"jit", "pjit", "closed_call", "core_call", "scan", "while", "cond", "remat2", "checkpoint"}
"""Operations that hold others and are rebuilt around them."""

_DERIVATIVES = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
"""Operations with a derivative of their own. One with products in it gives that up: it is run as what it computes."""


def rewritten(function: Callable[..., Any], product: Product) -> Callable[..., Any]:
    """`function` with `product(equation, as_it_is, left, right)` in the place of every product in it.

    `as_it_is(left, right, **settings)` runs the operation with some of its settings changed, such as `precision`.
    Arguments are pytrees of arrays. What other operations hold (custom calls, `shard_map`, Pallas kernels) stays as it
    is. Differentiate it where the products should have the derivatives of their replacements; rewrite the derivative
    where they should be replaced themselves.
    """

    def run(*args: Any) -> Any:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        out = _evaluate(traced.jaxpr, traced.consts, jax.tree.leaves(args), product)
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return run


def evaluate(
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[Any],
    run: Callable[[jex.JaxprEqn, list[Any]], Sequence[Any]],
    given: Callable[[Any, Any], Any] = lambda value, _: value,
) -> list[Any]:
    """The outputs of a program whose operations are run one after another: `run(equation, operands)` gives their own.

    Every value is passed on as `given(value, its abstract value)`.
    """
    inputs = (*jaxpr.constvars, *jaxpr.invars)
    values = {name: given(value, name.aval) for name, value in zip(inputs, (*consts, *args), strict=True)}

    def value(name: Any) -> Any:
        return given(name.val, name.aval) if isinstance(name, jex.Literal) else values[name]

    for equation in jaxpr.eqns:
        with equation.ctx.manager:  # what was in force where the operation was written
            out = run(equation, [value(name) for name in equation.invars])
        values |= {name: given(one, name.aval) for name, one in zip(equation.outvars, out, strict=True)}
    return [value(name) for name in jaxpr.outvars]


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], product: Product) -> list[Any]:
    return evaluate(jaxpr, consts, args, partial(_run, product))


def turned(
    params: Mapping[str, Any],
    operands: Sequence[Any],
    turn: Callable[[list[Any], Any], tuple[list[Any], Any]],
    more: Any,
) -> tuple[list[Any], Any]:
    """(outputs, what turns say) of a traced loop, of which `turn(operands, its part of more)` runs one turn again."""
    if "num_consts" in params:
        fixed, carried = params["num_consts"], params["num_carry"]
    else:
        fixed, carried = map(len, params["ft_in"].unpack()[:2])

    def step(carry: Any, xs: Any) -> tuple[Any, Any]:
        out, said = turn([*operands[:fixed], *carry, *xs[0]], xs[1])
        return out[:carried], (out[carried:], said)

    each, how = operands[fixed + carried :], {name: params[name] for name in ("length", "reverse", "unroll")}
    last, (outs, said) = jax.lax.scan(step, operands[fixed : fixed + carried], (each, more), **how)
    return [*last, *outs], said


def _run(product: Product, equation: jex.JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    primitive, params = equation.primitive, dict(equation.params)
    if primitive in PRODUCTS:

        def as_it_is(left: jax.Array, right: jax.Array, **settings: Any) -> jax.Array:
            return primitive.bind(left, right, **params | settings)

        return [product(equation, as_it_is, *operands)]
    if primitive.name in _DERIVATIVES and holds_products(equation):
        inner = params.get("call_jaxpr", params.get("fun_jaxpr"))
        return _evaluate(_operations(inner), getattr(inner, "consts", ()), operands, product)
    if primitive.name in _CONTAINERS and holds_products(equation):
        params = {name: _rebuilt(param, product) for name, param in params.items()}
    out = primitive.bind(*operands, **primitive.get_bind_params(params))
    return out if primitive.multiple_results else [out]


def _rebuilt(param: Any, product: Product) -> Any:
    """A parameter of an operation with the operations that it holds exchanged; any other as it is."""
    if isinstance(param, tuple | list):
        return type(param)(_rebuilt(one, product) for one in param)
    if not _is_program(param):
        return param
    program, consts = _operations(param), getattr(param, "consts", ())
    new = jax.make_jaxpr(lambda *args: _evaluate(program, consts, args, product))(
        *(name.aval for name in program.invars)
    )
    return new if isinstance(param, jex.ClosedJaxpr) else new.jaxpr


def _is_program(param: Any) -> bool:
    return isinstance(param, jex.ClosedJaxpr | jex.Jaxpr)


def _operations(program: Any) -> Any:
    """The bare list of operations of a program that may hold constants too."""
    return getattr(program, "jaxpr", program)


def programs(equation: jex.JaxprEqn) -> list[Any]:
    """The programs that an operation holds: a loop's body, the branches of a condition."""
    found = []
    for param in equation.params.values():
        several = param if isinstance(param, tuple | list) else (param,)
        found += [_operations(one) for one in several if _is_program(one)]
    return found


def holds_products(equation: jex.JaxprEqn) -> bool:
    """Whether a product is among the operations that this one holds, however deep."""
    return any(
        inner.primitive in PRODUCTS or holds_products(inner) for program in programs(equation) for inner in program.eqns
    )
