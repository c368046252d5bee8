"""An NNX model as a Linen module, whose sites are those of any other.

NNX modules are objects that are called, with no hook around the call. Here each module of a copy of the model gets a
class of its own, whose call marks what enters and leaves it. What is known of Linen sites then holds: reading,
differentiating, replacing, and what is refused.
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
    """An NNX model's `__call__`; `apply` takes what `variables` gives."""

    graph: Any
    """Its graph definition: all but its arrays."""

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs. Keys that `apply` is given as `rngs` are the model's own, or its argument `rngs`."""
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
    """(Linen module, variables) of an NNX model as it is now, in its mode: call `model.eval()` first.

    Sites are its layers, by path: `blocks/0/linear`. In a training loop, `variables(model)` gives the variables of
    the moment.
    """
    without = nnx.clone(model)
    nnx.pop(without, nnx.Intermediate)
    return FromNNX(nnx.graphdef(without)), variables(model)


def variables(model: nnx.Module) -> dict[str, PyTree]:
    """An NNX model's arrays now, as `apply` of its Linen module takes them: parameters, and all else as `rest`.

    What a call has sown is left out.
    """
    _, params, _, rest = nnx.split(model, nnx.Param, nnx.Intermediate, ...)  # type: ignore[misc]
    found = {"params": nnx.to_pure_dict(params), "rest": nnx.to_pure_dict(rest)}
    return {name: tree for name, tree in found.items() if jax.tree.leaves(tree)}
