"""Sites by name, glob or regular expression."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import PyTree

from neuron_mech import taps
from neuron_mech.config import Derivative
from neuron_mech.taps import Site

Names = str | re.Pattern | Iterable[str | re.Pattern]
"""One site, glob or compiled regular expression, or several; "all" is every `Neurons`, or else every stock layer."""


class Sites(dict[str, Site]):
    """Sites by name, which print as a table."""

    def __repr__(self) -> str:
        """A table of name, kind, shape and type of each site, with the reason where it cannot be used."""
        width = max((len(name) for name in self), default=4)
        lines = [f"{'site':{width}}  {'layer':16} {'one sample':>20}  type"]
        for name, site in self.items():
            shape = " x ".join(map(str, site.shape))
            lines.append(f"{name:{width}}  {site.kind:16} {shape:>20}  {site.dtype}  {site.trouble}".rstrip())
        return "\n".join(lines)


def sites(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    every: bool = False,
    apply: Mapping[str, Any] = {},
) -> Sites:
    """The sites of `model`, by name: where its neurons can be read, differentiated, replaced and recorded.

    They are found by an abstract run, in which nothing is computed and no memory is taken for values.

    Arguments:
        model: a Linen module; of an NNX model, what `from_nnx` gives.
        variables: its variables, or their shapes.
        inputs: the inputs of a batch of one or more, or their shapes; `Inputs` for several arguments.
        every: whether to list all sites: beside those of neurons also other modules, bare activation functions such
            as `:relu`, and what enters modules. Without it they are listed where the model has no others.
        apply: further arguments of `model.apply`, such as `{"train": False}`.

    Returns:
        {name: Site} in the order of computation, which prints as a table. A site's `shape` is that of one sample,
            positions first, neurons last. A site that is out of reach is listed too, and its `trouble` says why.

    Raises:
        SiteError: where the model has no site, or arrays of inputs differ in their first axis.
        InputError: where the model cannot be called with these arguments, or is no Linen module.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> print(neuron_mech.sites(model, variables, x))
    site      layer                      one sample  type
    layers_0  Dense                               4  float32
    layers_2  Dense                               3  float32
    """
    return Sites(taps.sites(model, variables, inputs, every, **taps.bound(apply)))


def in_reach(sites: Mapping[str, Site]) -> Derivative:
    """The derivative that all these sites have: by the activation where each has one, else by the pre-activation."""
    return "activation" if all(site.activation for site in sites.values()) else "pre_activation"


def selected(
    model: nn.Module, variables: Mapping[str, Any], inputs: PyTree, names: Names, **kwargs: Any
) -> dict[str, Site]:
    """The sites that match `names`, in order. Raises SiteError for a name without a site."""
    return named(taps.sites(model, variables, inputs, every=True, **kwargs), names)


def named(every: Mapping[str, Site], names: Names) -> dict[str, Site]:
    """Of all of a model's sites, those that match `names`, in order. Raises SiteError for a name without a site."""
    return taps.select(every, (names,) if isinstance(names, str | re.Pattern) else tuple(names))
