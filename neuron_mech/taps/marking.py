"""Marks in a model's program: the values that enter and leave its modules, as operations that do nothing.

A mark is written by an interceptor around each module's call while the model is traced. It says whose value this is,
and is the same whatever is asked later: what is read, replaced or differentiated is decided by whoever runs the
program. So nothing of an edit can stay behind in a cache, such as `nn.jit`'s.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir
from jaxtyping import PyTree

from neuron_mech.taps.inputs import arguments
from neuron_mech.taps.neurons import Neurons

mark_p = jex.Primitive("neuron_mech_mark")
"""value -> value. `path` is the site's, `role` what it is there, `mapped` the sizes of axes in front that `vmap` hides.
"""


def _batched(values: Any, axes: Any, *, mapped: tuple[int, ...], **params: Any) -> tuple[jax.Array, int]:
    value = jnp.moveaxis(values[0], axes[0], 0)
    return mark_p.bind(value, mapped=(value.shape[0], *mapped), **params), 0


mark_p.def_impl(lambda value, **_: value)
mark_p.def_abstract_eval(lambda value, **_: value)
ad.primitive_jvps[mark_p] = lambda values, tangents, **params: (mark_p.bind(*values, **params), tangents[0])
batching.primitive_batchers[mark_p] = _batched
mlir.register_lowering(mark_p, lambda _, value, **__: [value])

_marking: Any = jax.make_user_context(None)
"""Is part of what `jax.jit` caches by: what `nn.jit` compiled inside a module knows which marks are in it, if any."""


def marked(model: nn.Module) -> Callable[..., Any]:
    """`model.apply`, with a mark on every array of floats that enters or leaves a named module."""

    def run(variables: Any, *args: Any, **kwargs: Any) -> Any:
        active: list[tuple[int, str]] = []

        def interceptor(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            module, method = context.module, context.method_name
            path = "/".join(module.path)
            name = path if method == "__call__" else f"{path}.{method}"
            if method == "setup" or (id(module), method) in active:  # the second is a call of super()
                return call(*args, **kwargs)
            active.append((id(module), method))
            try:
                with scope(name), _marking(name):
                    return around(call, args, kwargs, name, type(module))
            finally:
                active.pop()

        args, kwargs = arguments(args, kwargs)
        with nn.intercept_methods(interceptor):
            return model.apply(variables, *args, **kwargs)

    return run


def around(call: Callable, args: tuple, kwargs: dict, name: str, kind: type) -> Any:
    """A module's call with marks on what enters and leaves it. None at the model itself, which has no name."""
    if not name:
        return call(*args, **kwargs)
    if issubclass(kind, Neurons):
        (value,) = args
        return _mark(call(_mark(value, name, kind, "pre_activation"), **kwargs), name, kind, "activation")
    args, kwargs = _marks((args, kwargs), kind, lambda k, _: f"{name}:input{k or ''}")
    return _marks(call(*args, **kwargs), kind, lambda k, several: f"{name}:output{k}" if several else name)


def scope(name: str) -> Any:
    """A context whose operations are known to be of this module; see `scope_of`."""
    return jax.named_scope(f"[[{name}]]")


def scope_of(names: Any, outside: str) -> str:
    """The innermost module of an operation's name stack, where `outside` is that of what holds the operation."""
    written = str(names)
    start, end = written.rfind("[["), written.rfind("]]")
    return written[start + 2 : end] if 0 <= start < end else outside


def _marks(tree: PyTree, kind: type, named: Callable[[int, bool], str]) -> PyTree:
    """A mark on every array of floats, `named` by its number and whether there are several."""
    several = sum(map(_is_values, jax.tree.leaves(tree))) > 1
    count = iter(range(len(jax.tree.leaves(tree))))

    def mark(leaf: Any) -> Any:
        if not _is_values(leaf):
            return leaf
        return _mark(leaf, named(next(count), several), kind, "pre_activation")

    return jax.tree.map(mark, tree)


def _is_values(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _mark(value: jax.Array, name: str, kind: type, role: str) -> jax.Array:
    return mark_p.bind(value, path=name, kind=kind, role=role, mapped=())
