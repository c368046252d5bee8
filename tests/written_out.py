"""A model beside the same network written out by hand, and its derivatives sample by sample in double precision."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from drawn import normal, started
from neuron_mech import Inputs


def squared(outputs, targets):
    return jnp.sum((outputs - targets) ** 2, -1)


def away(leaf):
    """Other numbers for each size, of the shape of a leaf."""
    return np.asarray(normal(leaf.size, *leaf.shape))


def edit(z):
    """A replacement that shows when it is made twice."""
    return jnp.where(z > 0.1, z + 0.5, 0.2)


class Exact(NamedTuple):
    """What a network that is written out has."""

    derivatives: Any
    """By site, of every sample's loss."""
    outputs: Any
    values: Any
    """By site, before anything is added."""
    replaced: Any
    """The outputs where the last site's values are edited."""


@dataclass
class Kind:
    """A model, what it is given, its sites, and the same by hand: (params, sample, at) -> outputs."""

    model: nn.Module
    inputs: Any
    names: Any
    sites: tuple[str, ...]
    by_hand: Callable
    derivative: str = "pre_activation"
    apply: dict = field(default_factory=dict)
    targets: int = 2
    variables: Any = None
    """Those that the model has, where `init` does not make them."""

    @cached_property
    def data(self):
        """(variables, inputs, labels)."""
        size = len(jax.tree.leaves(self.inputs)[0])
        given = self.inputs if isinstance(self.inputs, Inputs) else Inputs(self.inputs)
        variables = self.variables
        if variables is None:
            variables = started(self.model, 6, *given.args, **given.kwargs, **self.apply)
        # Biases begin at zero; these do not, as after some training.
        params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p) + 0.1 * away(p)), variables["params"])
        others = {name: of for name, of in (self.variables or {}).items() if name != "params"}
        return {**others, "params": params}, self.inputs, normal(7, size, self.targets)

    @cached_property
    def exact(self):
        """`Exact` of every sample, sample by sample, in double precision."""
        variables, inputs, labels = self.data
        data = {"params": variables["params"]}, inputs, labels  # keys among the others are of no type of numpy's
        with jax.enable_x64(True):
            variables, inputs, labels = jax.tree.map(
                lambda a: np.asarray(a, np.float64 if jnp.issubdtype(a.dtype, jnp.floating) else a.dtype), data
            )

            @jax.jit
            def of_one(params, sample, label):
                def noted(added):
                    seen = {}

                    def at(site, value):
                        seen[site] = value
                        return value + added[site] if site in added else value

                    return self.by_hand(params, sample, at), seen

                def loss(added):
                    outputs, seen = noted(added)
                    return squared(outputs, label).sum(), (outputs, seen)

                shapes = jax.eval_shape(lambda: noted({})[1])
                zeros = {site: jnp.zeros(shapes[site].shape) for site in self.sites}
                derivatives, (outputs, values) = jax.grad(loss, has_aux=True)(zeros)
                replaced = self.by_hand(params, sample, lambda site, z: edit(z) if site == self.sites[-1] else z)
                return Exact(derivatives, outputs, {site: values[site] for site in self.sites}, replaced)

            rows = [
                of_one(variables["params"], jax.tree.map(lambda a, i=i: a[i : i + 1], inputs), labels[i : i + 1])
                for i in range(len(labels))
            ]
            return jax.tree.map(lambda *each: np.concatenate(each), *rows)


def affine(p, x):
    return x @ p["kernel"] + p["bias"]
