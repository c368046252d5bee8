"""An NNX model as a Linen module with the same kinds of sites.

NNX has no hook around a module's call. So each module of a copy of the model gets a class of its own, whose call marks
the values that enter and leave it. Everything else then works as for Linen modules.
"""

import inspect
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
from flax import nnx
from jaxtyping import PyTree

from neuron_mech.taps.marking import around, scope


class FromNNX(nn.Module):
    """A Linen module that calls an NNX model; its variables are those of `variables(model)`."""

    graph: Any
    """Its graph definition: all but its arrays."""

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs. Random keys in `rngs` become the model's argument `rngs`, or reseed the model."""
        state = self.variables
        model = nnx.merge(
            self.graph, *(nnx.restore_int_paths(dict(state[k])) for k in ("params", "rest") if k in state)
        )
        takes_keys = "rngs" in inspect.signature(model.__call__).parameters
        for path, layer in nnx.iter_modules(model):
            layer.__class__ = _marked(type(layer), "/".join(map(str, path)))
        streams = self.scope.rngs if self.scope else ()
        keys: dict[str, Any] = {name: self.make_rng(name) for name in streams}
        if keys and takes_keys:
            kwargs.setdefault("rngs", nnx.Rngs(**keys))
        elif keys:
            nnx.reseed(model, **keys)
        return model(*args, **kwargs)


@cache
def _marked(kind: type, path: str) -> type:
    """A subclass of a module's class with marks around its call; the same each time, for NNX compiles by class."""

    def __call__(module: Any, *args: Any, **kwargs: Any) -> Any:
        with scope(path):
            return around(partial(kind.__call__, module), args, kwargs, path, kind)

    return type(kind.__name__, (kind,), {"__call__": __call__}) if hasattr(kind, "__call__") else kind  # noqa: B004


def from_nnx(model: nnx.Module) -> tuple[FromNNX, dict[str, PyTree]]:
    """(Linen module, variables) of an NNX model in its current state and mode; call `model.eval()` before if needed.

    Sites are its layers, named by path: `blocks/0/linear`. In a training loop, `variables(model)` gives the current
    variables.
    """
    without = nnx.clone(model)
    nnx.pop(without, nnx.Intermediate)
    return FromNNX(nnx.graphdef(without)), variables(model)


def variables(model: nnx.Module) -> dict[str, PyTree]:
    """The current variables of an NNX model, for its Linen module: `params`, and all others as `rest`.

    Values that calls have sown are left out.
    """
    _, params, _, rest = nnx.split(model, nnx.Param, nnx.Intermediate, ...)  # type: ignore[misc]
    found = {"params": nnx.to_pure_dict(params), "rest": nnx.to_pure_dict(rest)}
    return {name: tree for name, tree in found.items() if jax.tree.leaves(tree)}
