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
    """The sites of `model`, by name, found without running it; see `taps.sites`.

    Arguments:
        model: a Linen module.
        variables: its variables, or their shapes.
        inputs: the inputs of a batch, or their shapes; `Inputs` for several arguments.
        every: whether to list all sites, instead of those of neurons only.
        apply: further arguments of `model.apply`, such as `{"train": False}`.

    Printed, the sites are a table. Raises SiteError for a model that cannot be traced.
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
