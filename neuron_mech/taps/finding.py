"""Which sites a module has: found by an abstract run, in which nothing is computed, and chosen by name.

`dense` is a module's output; at `Neurons`, and at a bare activation function, the value that goes in and the one that
comes out. Further places have a colon in their names:

- `block_0:input` is what enters a module: the residual stream. Further arrays are `block_0:input1`, ….
- `block_0:gelu` is a bare function that is called in `block_0`, `attention:softmax` the pattern of an attention;
  `:relu` one called in the model itself.
- `cell:output1` is one of several arrays that leave a module, `embed.attend` what leaves another method than its call.

What is used several times in one pass is as many sites, numbered in order: `shared@0`, `shared@1` for two calls of one
module, `layers/dense@2` for the third layer of a scan, `rnn/cell:output1@5` for the sixth step of a sequence, `heads@3`
for the fourth member of a `vmap`. An axis that `vmap` maps over is no member where it is the batch itself.
"""

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from neuron_mech.errors import InputError, nearest
from neuron_mech.taps.neurons import Neurons
from neuron_mech.taps.programs import Place, Program, float_types, traced

LOOK = 2**28
"""Bytes of one site's values that are looked at at once: what else a network holds then is a few times that."""

LAYERS = (nn.Dense, nn.DenseGeneral, nn.Einsum, nn.Conv, nn.ConvLocal, nn.ConvTranspose)
"""Stock layers whose outputs are neurons' pre-activations."""

NNX_LAYERS = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.ConvTranspose)
"""The same of NNX."""


class SiteError(InputError):
    """A site that is not there, or where the question asked has no single answer."""


@dataclass(frozen=True)
class Site:
    """What is known of a site before anything is run.

    `shape` is one sample's values: positions first, neurons last. `trouble` says why the site cannot be read,
    differentiated or replaced, and is empty where it can.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: Any
    trouble: str = ""
    activation: bool = False
    """Whether the value after an activation function is in reach too: at `Neurons` and at a function."""


class Located(dict[tuple[str, str], tuple[Place, int]]):
    """{(site, pre_activation or activation): its place and which of the place's uses it is}, in order."""

    @property
    def names(self) -> list[str]:
        """Of all sites."""
        return list(dict.fromkeys(name for name, _ in self))


def located(program: Program) -> Located:
    """All sites of a program, by name."""
    places: dict[tuple[str, str], list[Place]] = {}
    for place in program.places:
        places.setdefault((place.path, place.role), []).append(place)
    found = Located()
    for (path, role), several in places.items():
        numbered = len(several) > 1 or several[0].several
        use = count()
        for place in several:
            for which in range(place.uses):
                found[f"{path}@{next(use)}" if numbered else path, role] = (place, which)
    return found


def sites(
    model: nn.Module, variables: Mapping[str, Any], inputs: PyTree, every: bool = False, **kwargs: Any
) -> dict[str, Site]:
    """The sites of `model` in the order of computation, from an abstract run on `inputs` (nothing is computed).

    Arguments:
        model: a Linen module.
        variables: its variables, or their shapes.
        inputs: the model's one argument, an array or a tree of arrays with the batch first, or `Inputs`; or shapes.
        every: whether to list all sites. Without it these are `Neurons` modules, and stock layers whether or not a
            `Neurons` follows; where there are none, all other modules; where there are none, activation functions. With
            it all of these, and the inputs of modules.
        **kwargs: go to `model.apply`.

    Returns:
        {name: Site}. A site's `shape` is that of one sample, positions first, neurons last; its `trouble` is empty, or
            says why it cannot be reached.

    Raises:
        SiteError: where there is no site at all, or arrays of inputs differ in their first axis.
        InputError: where the model cannot be called like this.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> from neuron_mech import taps
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> [(name, site.kind, site.shape) for name, site in taps.sites(model, variables, x).items()]
    [('layers_0', 'Dense', (4,)), ('layers_2', 'Dense', (3,))]
    """
    found, _ = looked_at(model, variables, inputs, **kwargs)
    return found if every else {name: found[name] for name in usual(found)}


def looked_at(
    model: nn.Module, variables: Mapping[str, Any], inputs: PyTree, **kwargs: Any
) -> tuple[dict[str, Site], bool]:
    """(every site, whether any value, at a site or elsewhere, is computed in half precision), from one abstract run.

    The arguments are those of `sites`, and so are the errors.
    """
    batch_size(inputs)
    shapes = jax.eval_shape(lambda tree: tree, (dict(variables), inputs))  # float64 of numpy's is JAX's own float32
    program = traced(model, *shapes, **kwargs)
    found = _sites(program)
    if not found:
        raise SiteError(
            f"{type(model).__name__} calls no named module and no activation function of JAX's, so that it has no "
            "sites: pass a value through neuron_mech.taps.neurons.Neurons(lambda x: x, name=...) where neurons live"
        )
    return found, any(dtype.itemsize < 4 for dtype in float_types(program.jaxpr))


def _sites(program: Program) -> dict[str, Site]:
    located_ = located(program)
    return {
        name: Site(
            name,
            place.kind,
            place.value[1:] if place.batch is not None else place.value,
            place.dtype,
            trouble(name, place),
            (name, "activation") in located_,
        )
        for (name, role), (place, _) in located_.items()
        if role == "pre_activation"
    }


def usual(names: Mapping[str, Site]) -> list[str]:
    """The sites that are meant where no others are asked for."""
    kinds = {kind.__name__ for kind in (Neurons, *LAYERS, *NNX_LAYERS)}
    layers = [name for name, site in names.items() if site.kind in kinds and ":" not in name]
    modules = [name for name in names if ":" not in name]
    return layers or modules or [name for name, site in names.items() if site.activation]


def trouble(name: str, place: Place) -> str:
    """Why a site cannot be read, replaced or differentiated; empty where it can."""
    if place.trouble:
        return f"site {name!r} {place.trouble}"
    if place.batch is None:
        return (
            f"site {name!r} has shape {list(place.shape)}, none of whose axes is the batch: name a site whose values "
            "keep one row a sample"
        )
    return ""


def batch_size(tree: PyTree) -> int:
    """The first axis that all arrays of `tree` share. Raises SiteError where they do not, and where it is empty."""
    leaves = jax.tree.leaves(tree)
    same = "what is the same for all samples is no input, but apply={...}"
    if others := [type(leaf).__name__ for leaf in leaves if not hasattr(leaf, "shape")]:
        raise SiteError(
            f"inputs and labels hold a {others[0]}: give arrays, as jnp.asarray makes them, the batch first; {same}"
        )
    sizes = {leaf.shape[:1] for leaf in leaves}
    if len(sizes) != 1 or not (size := sizes.pop()):
        raise SiteError(f"inputs and labels need the batch as first axis of every array, not {sorted(sizes)}; {same}")
    if not size[0]:
        raise SiteError("inputs and labels hold no sample: give one at least")
    return size[0]


class SiteWarning(UserWarning):
    """Sites that a pattern names are left out, for there is something in their way."""


def select(available: Mapping[str, Site], names: Iterable[str | re.Pattern], field: str = "") -> dict[str, Site]:
    """The sites that `names` name, in their order; those of one pattern in the order of computation.

    A name is a site's own, a glob (`blocks_*/mlp`; `*` stands for a `/` too, and for a `:` where the glob has one) or a
    compiled regular expression that matches all of it. A pattern takes stock layers and `Neurons` where it fits any,
    and else other modules. ("all",) is every `Neurons`, or every stock layer if there are none.

    Arguments:
        available: all sites of a model, those that `sites` lists with `every`.
        names: the names; of none, nothing is selected. One that is named twice is one.
        field: what names them, for messages: the field of a config or an argument.

    Returns:
        {name: Site}. What a pattern fits and cannot be reached is left out, and a SiteWarning says so.

    Raises:
        SiteError: for a name that is no site, with the nearest names, and for a site named, or all of a pattern's, that
            cannot be reached.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> from neuron_mech import taps
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> list(taps.select(taps.sites(model, variables, x, every=True), ["layers_*"]))
    ['layers_0', 'layers_2']
    """
    chosen: dict[str, Site] = {}
    left: list[Site] = []
    for name in names:
        matching = [available[site] for site in _matching(available, name, field)]
        good = [site for site in matching if not site.trouble]
        if not good:
            raise SiteError(matching[0].trouble)
        left += [site for site in matching if site.trouble]
        chosen |= {site.name: site for site in good}
    if left:
        others = f", and {len(left) - 1} more" * (len(left) > 1)
        warnings.warn(f"left out: {left[0].trouble}{others}", SiteWarning, stacklevel=3)
    return chosen


def _matching(available: Mapping[str, Site], name: str | re.Pattern, field: str) -> list[str]:
    listed = usual(available)
    if name == "all" and listed:
        return [site for site in listed if available[site].kind == Neurons.__name__] or listed
    if name in available:
        return [str(name)]
    fits = name.fullmatch if isinstance(name, re.Pattern) else lambda site: fnmatchcase(site, str(name))
    shown = name.pattern if isinstance(name, re.Pattern) else name
    everywhere = [site for site in available if (":" in shown) == (":" in site)]
    if found := [site for site in listed if fits(site)] or [site for site in everywhere if fits(site)]:
        return found
    if several := [site for site in available if site.rpartition("@")[0] == name]:
        raise SiteError(
            f"the module {shown!r} is used {len(several)} times in one pass: name a use, {several[0]!r} to "
            f"{several[-1]!r}, or all of them, '{name}@*'"
        )
    hint = nearest(name, available) if isinstance(name, str) else ""
    named = f"{field} names {shown!r}, which" if field else repr(shown)
    raise SiteError(f"{named} is no site; {hint}sites are: {', '.join(listed)}")


def fitting(sites: Mapping[str, Site], most: int) -> int:
    """How many samples to look at at once: `most`, or fewer where their values at a site would take more than LOOK."""
    largest = max(np.dtype(site.dtype).itemsize * math.prod(site.shape) for site in sites.values())
    return max(1, min(most, LOOK // largest))


def path_of(site: str) -> str:
    """The path of a site's module: the name without the number of its use."""
    path, at, use = site.rpartition("@")
    return path if at and use.isdecimal() else site
