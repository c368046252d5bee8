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
    """A Linen module that does what an NNX model does, and its variables: what all functions of this package take.

    The model itself is neither changed nor kept. Its sites are its layers, named by path: `blocks/0/linear`.

    Arguments:
        model: an NNX model, in the mode that is meant: call `model.eval()` or `model.train()` before.

    Returns:
        (the Linen module, the variables of now). Make the module once: it belongs to this structure and mode, and in
            a training loop `variables(model)` gives the variables of the moment. Random keys that `apply` is given
            in `rngs` reach the model as its argument `rngs`, or reseed it where it has none.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> import neuron_mech
    >>> net = nnx.Sequential(nnx.Linear(2, 4, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(4, 3, rngs=nnx.Rngs(1)))
    >>> model, variables = neuron_mech.from_nnx(net)
    >>> print(neuron_mech.sites(model, variables, jnp.ones((5, 2))))
    site      layer                      one sample  type
    layers/0  Linear                              4  float32
    layers/2  Linear                              3  float32
    """
    without = nnx.clone(model)
    nnx.pop(without, nnx.Intermediate)
    return FromNNX(nnx.graphdef(without)), variables(model)


def variables(model: nnx.Module) -> dict[str, PyTree]:
    """The variables that an NNX model has at the moment, for the Linen module that `from_nnx` made of it.

    In a loop: `recorder = recorder.update(neuron_mech.variables(net))`. Arrays are not copied.

    Arguments:
        model: the NNX model, of the same structure and in the same mode as when `from_nnx` was called.

    Returns:
        {"params": a tree of its `nnx.Param`, "rest": a tree of all others, such as running statistics and random
            keys}, without a name that would be empty. Values that calls have sown (`nnx.Intermediate`) are left out.

    >>> from flax import nnx
    >>> import neuron_mech
    >>> sorted(neuron_mech.variables(nnx.BatchNorm(3, rngs=nnx.Rngs(0))))  # running mean and variance are the rest
    ['params', 'rest']
    """
    _, params, _, rest = nnx.split(model, nnx.Param, nnx.Intermediate, ...)  # type: ignore[misc]
    found = {"params": nnx.to_pure_dict(params), "rest": nnx.to_pure_dict(rest)}
    return {name: tree for name, tree in found.items() if jax.tree.leaves(tree)}
