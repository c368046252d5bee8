"""A model beside the same network written out by hand, and its derivatives sample by sample in double precision."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from drawn import normal
from neuron_mech import Inputs


def squared(outputs, targets):
    return jnp.sum((outputs - targets) ** 2, -1)


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

    def data(self):
        """(variables, inputs, labels)."""
        size = len(jax.tree.leaves(self.inputs)[0])
        given = self.inputs if isinstance(self.inputs, Inputs) else Inputs(self.inputs)
        variables = self.variables
        if variables is None:
            variables = self.model.init(jax.random.key(6), *given.args, **given.kwargs, **self.apply)
        params = jax.tree.map(lambda p: p + 0.1 * normal(p.size, *p.shape), variables["params"])
        others = {name: of for name, of in (self.variables or {}).items() if name != "params"}
        return {**others, "params": params}, self.inputs, normal(7, size, self.targets)

    def derivatives(self):
        """{site: every sample's derivative}, sample by sample, in double precision."""
        variables, inputs, labels = self.data()
        data = {"params": variables["params"]}, inputs, labels  # keys among the others are of no type of numpy's
        with jax.enable_x64(True):
            variables, inputs, labels = jax.tree.map(
                lambda a: np.asarray(a, np.float64 if jnp.issubdtype(a.dtype, jnp.floating) else a.dtype), data
            )

            @jax.jit
            def of_one(params, sample, label):
                shapes: dict[str, Any] = {}

                def note(name, value):
                    shapes[name] = value
                    return value

                def loss(added):
                    at = lambda site, value: value + added[site] if site in added else value  # noqa: E731
                    return squared(self.by_hand(params, sample, at), label).sum()

                self.by_hand(params, sample, note)
                return jax.grad(loss)({name: jnp.zeros_like(shapes[name]) for name in self.sites})

            rows = [
                of_one(variables["params"], jax.tree.map(lambda a, i=i: a[i : i + 1], inputs), labels[i : i + 1])
                for i in range(len(labels))
            ]
            return jax.tree.map(lambda *each: np.concatenate(each), *rows)


def affine(p, x):
    return x @ p["kernel"] + p["bias"]
