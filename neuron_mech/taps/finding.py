"""Which sites a module has: found by an abstract run, in which nothing is computed, and chosen by name.

A module that is used several times in one pass is as many sites: `shared@0`, `shared@1` for two calls of one module,
`layers/dense@2` for the third layer of an `nn.scan` or `nn.vmap` that lets `intermediates` through.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import PyTree

from neuron_mech.errors import InputError, nearest
from neuron_mech.taps.intermediates import called_path, sown_by, with_intermediates
from neuron_mech.taps.neurons import Neurons

LOOK = 2**28
"""Bytes of one site's values that are looked at at once: what else a network holds then is a few times that."""

LAYERS = (nn.Dense, nn.DenseGeneral, nn.Einsum, nn.Conv, nn.ConvLocal, nn.ConvTranspose)
"""Stock layers that `sites` lists; their output is the pre-activation."""


class SiteError(InputError):
    """A site that is not there, or where the question asked has no single answer."""


@dataclass(frozen=True)
class Site:
    """What is known of a site before anything is run.

    `shape` is one sample's pre-activation: positions first, neurons last. `trouble` says why the site cannot be
    differentiated or replaced, and is empty where it can.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: Any
    trouble: str = ""
    layers: int = 0
    """Of an `nn.scan` or `nn.vmap` that the module is inside; 0 where it is in none."""


def sites(model: nn.Module, variables: Mapping[str, Any], inputs: PyTree, **kwargs: Any) -> dict[str, Site]:
    """All sites of `model` in the order of computation, from an abstract run on `inputs` (nothing is computed).

    Lists `Neurons` modules, and the layers in `LAYERS` whether or not a `Neurons` follows. `inputs` is the model's one
    argument, an array or a tree of arrays with the batch first; `kwargs` go to `model.apply`.
    """
    found: dict[str, Site] = {}
    for path, (kind, seen, sown) in _uses(model, variables, inputs, **kwargs).items():
        for site in _describe(path, kind, seen, sown, batch_size(inputs)):
            found[site.name] = site
    return found


def batch_size(tree: PyTree) -> int:
    """The first axis that all arrays of `tree` share. Raises SiteError where they do not."""
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or not (size := sizes.pop()):
        raise SiteError(f"inputs and labels need the batch as first axis of every array, not {sorted(sizes)}")
    return size[0]


def select(available: Mapping[str, Site], names: Iterable[str | re.Pattern], field: str = "") -> dict[str, Site]:
    """The sites that `names` name, in their order; those of one pattern in the order of computation.

    A name is a site's own, a glob (`blocks_*/mlp`; `*` stands for a `/` too) or a compiled regular expression that
    matches all of it. ("all",) is every `Neurons`, or every site if there are none. Raises SiteError for a name that is
    no site, with the nearest names, and for a site that cannot be edited.
    """
    names = tuple(names)
    if names == ("all",):
        neurons = {n: s for n, s in available.items() if s.kind == Neurons.__name__}
        chosen = neurons or dict(available)
    else:
        chosen = {site: available[site] for name in names for site in _matching(available, name, field)}
    for site in chosen.values():
        if site.trouble:
            raise SiteError(site.trouble)
    return chosen


def _matching(available: Mapping[str, Site], name: str | re.Pattern, field: str) -> list[str]:
    if isinstance(name, re.Pattern):
        found, shown = [site for site in available if name.fullmatch(site)], repr(name.pattern)
    else:
        found, shown = [site for site in available if site == name or fnmatchcase(site, name)], repr(name)
    if found:
        return found
    if several := [site for site in available if site.rpartition("@")[0] == name]:
        raise SiteError(
            f"the module {shown} is used {len(several)} times in one pass: name a use, {several[0]!r} to "
            f"{several[-1]!r}, or all of them, '{name}@*'"
        )
    hint = nearest(name, available) if isinstance(name, str) else ""
    named = f"{field} names {shown}, which" if field else shown
    raise SiteError(f"{named} is no site; {hint}sites are: {', '.join(available)}")


def fitting(sites: Mapping[str, Site], most: int) -> int:
    """How many samples to look at at once: `most`, or fewer where their values at a site would take more than LOOK."""
    largest = max(np.dtype(site.dtype).itemsize * math.prod(site.shape) for site in sites.values())
    return max(1, min(most, LOOK // largest))


def path_of(site: str) -> str:
    """The path of a site's module: the name without the number of its use."""
    path, at, use = site.rpartition("@")
    return path if at and use.isdecimal() else site


def _is_site(module: nn.Module, method: str) -> bool:
    return method == "__call__" and isinstance(module, (Neurons, *LAYERS))


def _uses(
    model: nn.Module, variables: Mapping[str, Any], inputs: PyTree, **kwargs: Any
) -> dict[str, tuple[str, jax.ShapeDtypeStruct, tuple]]:
    """{path: (kind, what an edit would see, the values that reach the outside)} of every module with sites."""
    uses: dict[str, tuple[str, jax.ShapeDtypeStruct]] = {}

    def notice(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        out = call(*args, **kwargs)
        if _is_site(context.module, context.method_name) and context.module.path:
            seen = args[0] if isinstance(context.module, Neurons) else out
            kind, shape = type(context.module).__name__, jax.ShapeDtypeStruct(seen.shape, seen.dtype)
            uses.setdefault(called_path(context), (kind, shape))
        return out

    def run(variables: Mapping[str, Any], inputs: PyTree) -> Any:
        changes = {"mutable": with_intermediates(kwargs), "capture_intermediates": _is_site}
        with nn.intercept_methods(notice):
            return model.apply(variables, inputs, **{**kwargs, **changes})[1]

    sown = jax.eval_shape(run, dict(variables), inputs).get("intermediates", {})
    return {path: (kind, seen, sown_by(sown, path)) for path, (kind, seen) in uses.items()}


def _describe(path: str, kind: str, seen: jax.ShapeDtypeStruct, sown: tuple, batch: int) -> list[Site]:
    """The sites of one module: one, or one for every use."""
    site = Site(path, kind, tuple(seen.shape[1:]), seen.dtype)
    if not sown:
        return [
            replace(
                site,
                trouble=f"site {path!r} is inside an nn.scan or nn.vmap that keeps intermediates to itself: add "
                "variable_axes={'intermediates': 0} to it, or record a site outside",
            )
        ]
    looped = sown[0].shape[1:] == seen.shape
    if looped and len(sown) > 1:
        site = replace(
            site,
            trouble=f"site {path!r} is used {len(sown)} times by each layer of an nn.scan or nn.vmap: give each use a "
            "module of its own name",
        )
    elif not looped and any(one.shape != seen.shape for one in sown):
        shapes = ", ".join(str(list(one.shape)) for one in sown)
        site = replace(
            site,
            trouble=f"site {path!r} gives values of shapes {shapes}: give each shape a module of its own, or "
            "put the axis of 'intermediates' first in its nn.scan or nn.vmap",
        )
    elif not seen.shape or seen.shape[0] != batch:
        site = replace(
            site,
            trouble=f"site {path!r} has shape {list(seen.shape)}, whose first axis is not the batch of {batch}: record "
            "a site whose values keep one row a sample",
        )
    layers = sown[0].shape[0] if looped else 0
    several = layers or len(sown)
    if site.trouble or (several == 1 and not looped):
        return [site]
    return [replace(site, name=f"{path}@{use}", layers=layers) for use in range(several)]
