"""An NNX model as a Linen module, whose sites are those of any other.

NNX modules are objects that are called, with no hook around the call. Here each layer of a copy of the model gets a
class of its own, whose call passes its output through a Linen module of the layer's path. What is known of Linen sites
then holds: reading, differentiating, replacing, and what is refused.
"""

from typing import Any

import flax.linen as nn
import jax
from flax import nnx
from jax.extend.core import get_opaque_trace_state
from jaxtyping import PyTree

from neuron_mech.taps import SiteError
from neuron_mech.taps.neurons import Neurons

LAYERS = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.ConvTranspose)
"""NNX layers that become sites; their output is the pre-activation."""


class FromNNX(nn.Module):
    """An NNX model's `__call__`; `apply` takes what `variables` gives."""

    graph: Any
    """Its graph definition: all but its arrays."""

    @nn.compact
    def __call__(self, inputs: PyTree, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs."""
        state = self.variables
        model = nnx.merge(
            self.graph, *(nnx.restore_int_paths(dict(state[k])) for k in ("params", "rest") if k in state)
        )
        level = get_opaque_trace_state()
        for path, layer in nnx.iter_modules(model):
            if isinstance(layer, LAYERS):
                layer.__class__ = self._tapped(type(layer), "/".join(map(str, path)), level)
        return model(inputs, *args, **kwargs)

    def _tapped(self, kind: type, path: str, level: Any) -> type:
        """A subclass of a layer's class that passes its output through the site of its path."""

        def __call__(layer: Any, *args: Any, **kwargs: Any) -> Any:
            out = kind.__call__(layer, *args, **kwargs)
            if get_opaque_trace_state() != level:
                raise SiteError(
                    f"{path!r} is called inside a transformation (nnx.scan, nnx.vmap, nnx.remat, nnx.jit), where its "
                    "values cannot be reached from outside: call it plainly, or write the layers out"
                )
            return sites[path](out)

        sites = {path: self._site(path)}
        return type(kind.__name__, (kind,), {"__call__": __call__})

    def _site(self, path: str) -> nn.Module:
        return Neurons(lambda pre_activation: pre_activation, name=path)


def from_nnx(model: nnx.Module) -> tuple[FromNNX, dict[str, PyTree]]:
    """(Linen module, variables) of an NNX model as it is now, in its mode: call `model.eval()` first.

    Sites are its layers, by path: `blocks/0/linear`. In a training loop, `variables(model)` gives the variables of
    the moment.
    """
    return FromNNX(nnx.graphdef(model)), variables(model)


def variables(model: nnx.Module) -> dict[str, PyTree]:
    """An NNX model's arrays now, as `apply` of its Linen module takes them: parameters, and all else as `rest`."""
    _, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    found = {"params": nnx.to_pure_dict(params), "rest": nnx.to_pure_dict(rest)}
    return {name: tree for name, tree in found.items() if jax.tree.leaves(tree)}
