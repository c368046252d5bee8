"""Read, differentiate and replace the pre-activations of any Linen module at named sites, without editing it.

A site is a submodule's path, `dense1` or `stage2/block0/conv`. At a `Neurons` module the pre-activation is its input
and the activation its output. Any other submodule is a site too, with its *output* as the pre-activation: a stock
`nn.Dense` or `nn.Conv` followed by a bare `nn.relu`, which no one outside can see, so the activation is out of reach.

A module that is used several times in one pass is as many sites: `shared@0`, `shared@1` for two calls of one module,
`layers/dense@2` for the third layer of an `nn.scan` or `nn.vmap` that lets `intermediates` through.

Everything here takes the module itself, never a function somebody has jitted: an interceptor that is installed after
tracing would be ignored in silence. Jit what you build from these functions, not what you hand them.

What is refused, each with a `SiteError` that says what to do: a name that is no site; the bare name of a module that
is used several times; a module inside an `nn.scan` or `nn.vmap` that keeps intermediates to itself; a nudge whose shape
is not the site's own, which would broadcast and sum the gradients of several samples.
"""

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from neuron_mech.errors import InputError
from neuron_mech.models.neurons import Neurons
from neuron_mech.presets import Derivative

LOOK = 2**28
"""Bytes of one site's values that are looked at at once: what else a network holds then is a few times that."""

Edit = Callable[[jax.Array], jax.Array]
PerSampleLoss = Callable[[Any, Any], jax.Array]
"""(the model's outputs, the labels) -> one value a sample."""


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
    near = difflib.get_close_matches(name, available, n=1) if isinstance(name, str) else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    named = f"{field} names {shown}, which" if field else shown
    raise SiteError(f"{named} is no site; {hint}sites are: {', '.join(available)}")


def fitting(sites: Mapping[str, Site], most: int) -> int:
    """How many samples to look at at once: `most`, or fewer where their values at a site would take more than LOOK."""
    largest = max(np.dtype(site.dtype).itemsize * math.prod(site.shape) for site in sites.values())
    return max(1, min(most, LOOK // largest))


def edited(model: nn.Module, pre: Mapping[str, Edit] = {}, post: Mapping[str, Edit] = {}) -> Callable[..., Any]:
    """`model.apply` with edits of the pre-activations (`pre`) and activations (`post`) of named sites.

    An edit is a function of the whole batch's array that keeps its shape and dtype. Raises SiteError while tracing
    when an edit was not reached or changes a shape, and for `post` at a module that is not `Neurons`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"edited needs the flax.linen Module itself, not {type(model).__name__}: edits cannot reach "
            "into a function that may have been jitted before"
        )
    paths = {path_of(site) for site in (*pre, *post)}

    def run(variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        layers = _layers(model, {*pre, *post}, variables, *args, **kwargs)
        calls: Counter[str] = Counter()
        reached: set[str] = set()

        def interceptor(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            path = _path(context)
            if context.method_name != "__call__" or path not in paths:
                return call(*args, **kwargs)
            index: int | jax.Array = calls[path]
            calls[path] += 1
            if path in layers:
                index = context.module.get_variable("intermediates", _LAYER)

            def edit(value: jax.Array, edits: Mapping[str, Edit]) -> jax.Array:
                """The edit of this use: of one in a loop over layers, the layer's own, known only when it runs."""
                if path in edits:
                    reached.add(path)
                    return _apply(edits[path], value, path)
                if path not in layers:
                    name = f"{path}@{index}"
                    if name not in edits:
                        return value
                    reached.add(name)
                    return _apply(edits[name], value, name)
                names = [f"{path}@{layer}" for layer in range(layers[path])]
                if not any(name in edits for name in names):
                    return value
                reached.update(name for name in names if name in edits)
                branches = [lambda v, n=n: _apply(edits.get(n), v, n) for n in names]
                return jax.lax.switch(index, branches, value)

            if isinstance(context.module, Neurons):
                (value,) = args
                return edit(call(edit(value, pre), **kwargs), post)
            if any(path_of(site) == path for site in post):
                raise SiteError(
                    f"site {path!r} is a {type(context.module).__name__}: only its pre-activation can be reached; "
                    "ask for the pre_activation, or name the activation function with Neurons"
                )
            return edit(call(*args, **kwargs), pre)

        if layers:
            variables = {**variables, "intermediates": _layer_numbers(layers)}
        with nn.intercept_methods(interceptor):
            out = model.apply(variables, *args, **kwargs)
        if missed := sorted({*pre, *post} - reached):
            raise SiteError(f"no such site, or one hidden by a compiled submodule: {', '.join(missed)}")
        return out

    return run


def path_of(site: str) -> str:
    """The path of a site's module: the name without the number of its use."""
    path, at, use = site.rpartition("@")
    return path if at and use.isdecimal() else site


def read(
    model: nn.Module, variables: Mapping[str, Any], inputs: PyTree, names: tuple[str, ...], **kwargs: Any
) -> tuple[Any, dict[str, jax.Array]]:
    """(output, {site: pre-activations of shape (batch, positions ..., neurons)}), through Flax's `intermediates`.

    Raises SiteError for a site that is not there, or for the bare name of a module that is used more than once.
    """
    paths = {path_of(name) for name in names}
    out, captured = model.apply(
        variables,
        inputs,
        **kwargs
        | {
            "mutable": _with_intermediates(kwargs),
            "capture_intermediates": lambda m, _: "/".join(m.path) in paths,
        },
    )
    values = {}
    for name in names:
        sown, use = _sown(captured.get("intermediates", {}), path_of(name)), name.removeprefix(path_of(name))[1:]
        if not use and len(sown) > 1:
            raise SiteError(
                f"site {name!r} is used {len(sown)} times: name a use, {name + '@0'!r} to {f'{name}@{len(sown) - 1}'!r}"
            )
        if not sown:
            raise SiteError(
                f"site {name!r} gives no value: it is no site, or inside an nn.scan that keeps intermediates to "
                "itself (add variable_axes={'intermediates': 0} to it)"
            )
        # One value a call; of a loop over layers one for all, by layer.
        each = sown[0] if use and len(sown) == 1 else sown
        if use and int(use) >= len(each):
            raise SiteError(f"site {name!r} is not there: its module is used {len(each)} times, counted from 0")
        values[name] = each[int(use or 0)]
    return out, values


def below(model: nn.Module, variables: Mapping[str, Any], inputs: PyTree, site: str, **kwargs: Any) -> frozenset[str]:
    """Paths of the modules that had been called when the site was reached: what its pre-activation can depend on.

    The rest follows the site. Raises SiteError where the site is not reached, or is one use of several of its module.
    """
    if path_of(site) != site:
        raise SiteError(f"site {site!r} is one use of a module that follows itself: cut at a module used once")
    called: list[str] = []
    reached = False

    def notice(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        nonlocal reached
        path = _path(context)
        # A stock layer computes the pre-activation, so it lies below its own site; Neurons only receives it.
        reached |= path == site and isinstance(context.module, Neurons)
        if not reached and path:
            called.append(path)
        out = call(*args, **kwargs)
        reached |= path == site
        return out

    def run(variables: Mapping[str, Any], inputs: PyTree) -> Any:
        with nn.intercept_methods(notice):
            return model.apply(variables, inputs, **kwargs)

    jax.eval_shape(run, dict(variables), inputs)
    if not reached:
        raise SiteError(f"{site!r} is no site, or is not reached")
    return frozenset(called)


def zeros(sites: Mapping[str, Site], batch: int) -> dict[str, jax.Array]:
    """Nudges for `activation_gradients`: zeros of each site's own shape for a batch of this size."""
    return {name: jnp.zeros((batch, *site.shape), site.dtype) for name, site in sites.items()}


def nudged(
    model: nn.Module, nudges: Mapping[str, jax.Array], derivative: Derivative = "activation"
) -> Callable[..., Any]:
    """`model.apply` with `nudges` added at their sites, to the activation or the pre-activation.

    The derivative of a summed per-sample loss with respect to a nudge of zeros is every sample's own derivative, in
    one backward pass, as long as samples do not mix (see `leakage`).
    """
    edits = {site: _adding(site, nudge) for site, nudge in nudges.items()}
    return edited(model, pre=edits) if derivative == "pre_activation" else edited(model, post=edits)


def activation_gradients(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    nudges: Mapping[str, jax.Array],
    objectives: Mapping[str, PerSampleLoss],
    derivative: Derivative = "activation",
    **kwargs: Any,
) -> dict[str, dict[str, jax.Array]]:
    """{objective: {site: d objective / d activation}} of every sample, from one forward pass.

    An objective maps (outputs, labels) to one value a sample; `nudges` are `zeros` for this batch's size. One backward
    pass an objective. Samples must not mix: what comes back is the derivative of the batch's *sum*.
    """

    def forward(nudges: Mapping[str, jax.Array]) -> Any:
        out = nudged(model, nudges, derivative)(variables, inputs, **kwargs)
        # Flax returns (output, updated collections) when any are mutable: a recording drops the updates.
        return out if kwargs.get("mutable", False) is False else out[0]

    outputs, backward = jax.vjp(forward, dict(nudges))
    return {
        name: backward(jax.grad(lambda out, f=f: f(out, labels).sum())(outputs))[0] for name, f in objectives.items()
    }


def per_sample_gradients(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    sites: Mapping[str, Site],
    objectives: Mapping[str, PerSampleLoss],
    derivative: Derivative = "activation",
    **kwargs: Any,
) -> dict[str, dict[str, jax.Array]]:
    """`activation_gradients` by `vmap` over batches of one: samples cannot mix, whatever the model does.

    XLA turns the mapped products back into whole-batch ones; measured, it costs what one backward pass costs.
    """

    def one(sample: PyTree, label: PyTree) -> dict[str, dict[str, jax.Array]]:
        sample, label = jax.tree.map(lambda leaf: leaf[None], (sample, label))
        gradients = activation_gradients(
            model, variables, sample, label, zeros(sites, 1), objectives, derivative, **kwargs
        )
        return jax.tree.map(lambda g: g[0], gradients)

    return jax.vmap(one)(inputs, labels)


LAYERS = (nn.Dense, nn.DenseGeneral, nn.Einsum, nn.Conv, nn.ConvLocal, nn.ConvTranspose)
"""Stock layers that `sites` lists; their output is the pre-activation."""

_LAYER = "neuron_mech_layer"
"""In `intermediates`: the number of the layer that a module is in, where layers are looped over."""


def _is_site(module: nn.Module, method: str) -> bool:
    return method == "__call__" and isinstance(module, (Neurons, *LAYERS))


def _with_intermediates(kwargs: Mapping[str, Any]) -> list[str]:
    """What `apply` may change: intermediates, and what the caller said, such as batch statistics."""
    said = kwargs.get("mutable", False) or ()
    return ["intermediates", *([said] if isinstance(said, str) else said)]


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
            uses.setdefault(_path(context), (kind, shape))
        return out

    def run(variables: Mapping[str, Any], inputs: PyTree) -> Any:
        changes = {"mutable": _with_intermediates(kwargs), "capture_intermediates": _is_site}
        with nn.intercept_methods(notice):
            return model.apply(variables, inputs, **{**kwargs, **changes})[1]

    sown = jax.eval_shape(run, dict(variables), inputs).get("intermediates", {})
    return {path: (kind, seen, _sown(sown, path)) for path, (kind, seen) in uses.items()}


def _layers(model: nn.Module, names: set[str], variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> dict:
    """{path: layers} of the modules named with a use that are inside a loop over layers."""
    if all(path_of(name) == name for name in names):
        return {}
    found = sites(model, variables, args[0], **kwargs)
    return {path_of(name): found[name].layers for name in names if name in found and found[name].layers}


def _layer_numbers(layers: Mapping[str, int]) -> dict[str, Any]:
    """A collection that tells each module its layer: the loop slices it as it slices intermediates."""
    flat = {(*path.split("/"), _LAYER): jnp.arange(several) for path, several in layers.items()}
    return traverse_util.unflatten_dict(flat)


def _path(context: nn.module.InterceptorContext) -> str:
    return "/".join(context.module.path)


def _apply(edit: Edit | None, value: jax.Array, site: str) -> jax.Array:
    if edit is None:
        return value
    new = edit(value)
    if new.shape != value.shape or new.dtype != value.dtype:
        raise SiteError(
            f"the edit at site {site!r} turns {value.dtype}{list(value.shape)} into {new.dtype}{list(new.shape)}: "
            "it must keep shape and dtype"
        )
    return new


def _adding(site: str, nudge: jax.Array) -> Edit:
    def add(value: jax.Array) -> jax.Array:
        if nudge.shape != value.shape:
            raise SiteError(
                f"the nudge at site {site!r} has shape {list(nudge.shape)}, its values {list(value.shape)}: "
                "broadcasting would sum gradients of several samples; build it with taps.zeros for this batch"
            )
        return value + nudge

    return add


def _sown(intermediates: Mapping[str, Any], name: str) -> tuple:
    """The values that a site sowed, one a call; empty where none got out."""
    node: Any = intermediates
    # A module's own name may have slashes in it, as those of NNX layers have.
    for part in (name,) if name in intermediates else name.split("/"):
        node = node.get(part, {})
    return node.get("pre_activation", node.get("__call__", ()))


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
