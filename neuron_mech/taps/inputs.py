"""The inputs of a model: one array or tree, or several arguments, with the batch as first axis."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax


@jax.tree_util.register_pytree_with_keys_class
class Inputs:
    """Several arguments of a model, positional or by keyword; the batch is the first axis of every array in them.

    Every function that takes an array of inputs also takes `Inputs(tokens, segments, mask=mask)`, and then calls
    `model.apply(variables, tokens, segments, mask=mask)`. A pytree: `jax.tree.map` goes through its arrays.

    Arguments:
        *args: the model's positional arguments after the variables, arrays or trees of arrays.
        **kwargs: its keyword arguments. What is the same for all samples is no input, but goes into `apply={...}`.

    Nothing is checked here. The functions that take inputs raise SiteError where something in them is no array, or
    where arrays differ in their first axis.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model, tokens, mask = nn.MultiHeadDotProductAttention(1), jnp.ones((5, 7, 4)), jnp.ones((5, 1, 7, 7), bool)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), tokens, mask=mask)
    >>> list(neuron_mech.sites(model, variables, neuron_mech.Inputs(tokens, mask=mask)))
    ['query', 'key', 'value', 'out']
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self.args, self.kwargs = args, kwargs

    def __repr__(self) -> str:
        """The arguments' shapes."""
        shapes = jax.tree.map(lambda leaf: list(getattr(leaf, "shape", ())), (self.args, self.kwargs))
        return f"Inputs{shapes}"

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], None]:
        """Both parts, by name."""
        return ((jax.tree_util.GetAttrKey("args"), self.args), (jax.tree_util.GetAttrKey("kwargs"), self.kwargs)), None

    @classmethod
    def tree_unflatten(cls, _: None, parts: tuple[tuple, Mapping[str, Any]]) -> "Inputs":
        """From both parts."""
        args, kwargs = parts
        return cls(*args, **kwargs)


def arguments(args: tuple, kwargs: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """(positional, keyword) arguments for `model.apply`, where the one positional argument may be `Inputs`."""
    if len(args) == 1 and isinstance(args[0], Inputs):
        return args[0].args, {**kwargs, **args[0].kwargs}
    return args, dict(kwargs)


FLAX = ("rngs", "mutable", "method", "capture_intermediates")
"""Keywords of `apply` itself; all others are the model's."""


def bound(apply: Mapping[str, Any]) -> dict[str, Any]:
    """`apply` with the model's own keywords bound in its `method`, so that their names cannot clash with others."""
    own = {name: value for name, value in apply.items() if name not in FLAX}
    if not own:
        return dict(apply)
    method = apply.get("method")

    def call(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        function = getattr(model, method) if isinstance(method, str) else partial(method, model) if method else model
        return function(*args, **own, **kwargs)

    return {name: value for name, value in apply.items() if name in FLAX} | {"method": call}
