"""Read, differentiate and replace the pre-activations of any Linen module at named sites, without editing it.

A site is a submodule's path, `dense1` or `stage2/block0/conv`. At a `Neurons` module the pre-activation is its input
and the activation its output. Any other submodule is a site too, with its *output* as the pre-activation: a stock
`nn.Dense` or `nn.Conv` followed by a bare `nn.relu`, which no one outside can see, so the activation is out of reach.

Everything here takes the module itself, never a function somebody has jitted: an interceptor that is installed after
tracing would be ignored in silence. Jit what you build from these functions, not what you hand them.

What is refused, each with a `SiteError` that says what to do: a name that is no site; a module called twice (one
name, two values); a module inside `nn.scan` or `nn.vmap` (one name, a value per layer); a nudge whose shape is not
the site's own, which would broadcast and sum the gradients of several samples.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neuron_mech.errors import InputError
from neuron_mech.models.neurons import Neurons
from neuron_mech.presets import Derivative

LOOK = 2**28
"""Bytes of one site's values that are looked at at once: what else a network holds then is a few times that."""

Edit = Callable[[jax.Array], jax.Array]
PerSampleLoss = Callable[[jax.Array, jax.Array], jax.Array]


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


def sites(model: nn.Module, variables: Mapping[str, Any], inputs: jax.Array, **kwargs: Any) -> dict[str, Site]:
    """All sites of `model` in the order of computation, from an abstract run on `inputs` (nothing is computed).

    Lists `Neurons` modules, and `Dense`, `DenseGeneral` and `Conv` modules that no `Neurons` follows unseen: that is,
    all of them. `kwargs` go to `model.apply`.
    """
    uses: dict[str, tuple[str, Any]] = {}

    def notice(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        out = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, _SITE_KINDS) and context.module.path:
            # What a submodule sees is what an edit would see; compared below with what reaches the outside.
            seen = args[0] if isinstance(context.module, Neurons) else out
            uses.setdefault(
                _path(context), (type(context.module).__name__, jax.ShapeDtypeStruct(seen.shape, seen.dtype))
            )
        return out

    def run(variables: Mapping[str, Any], inputs: jax.Array) -> Any:
        with nn.intercept_methods(notice):
            return model.apply(
                variables, inputs, **{**kwargs, "mutable": ["intermediates"], "capture_intermediates": _is_site}
            )[1]

    sown = jax.eval_shape(run, dict(variables), inputs).get("intermediates", {})
    return {name: _describe(name, kind, seen, _sown(sown, name), inputs) for name, (kind, seen) in uses.items()}


def select(available: Mapping[str, Site], names: tuple[str, ...]) -> dict[str, Site]:
    """The sites called `names` ("all": every `Neurons`, or every site if there are none), usable ones only.

    Raises SiteError for a name that is no site, with the nearest names, and for a site that cannot be edited.
    """
    if names == ("all",):
        neurons = {n: s for n, s in available.items() if s.kind == Neurons.__name__}
        chosen = neurons or dict(available)
    else:
        for name in names:
            if name not in available:
                near = difflib.get_close_matches(name, available, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise SiteError(
                    f"record.sites names {name!r}, which is no site; {hint}sites are: {', '.join(available)}"
                )
        chosen = {name: available[name] for name in names}
    for site in chosen.values():
        if site.trouble:
            raise SiteError(site.trouble)
    return chosen


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

    def run(*args: Any, **kwargs: Any) -> Any:
        reached: set[str] = set()

        def interceptor(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            site = _path(context)
            if context.method_name != "__call__" or (site not in pre and site not in post):
                return call(*args, **kwargs)
            reached.add(site)
            if isinstance(context.module, Neurons):
                (value,) = args
                out = call(_apply(pre.get(site), value, site), **kwargs)
                return _apply(post.get(site), out, site)
            if site in post:
                raise SiteError(
                    f"site {site!r} is a {type(context.module).__name__}: only its pre-activation can be reached; "
                    "ask for the pre_activation, or name the activation function with Neurons"
                )
            return _apply(pre[site], call(*args, **kwargs), site)

        with nn.intercept_methods(interceptor):
            out = model.apply(*args, **kwargs)
        if missed := sorted({*pre, *post} - reached):
            raise SiteError(f"no such site, or one hidden by a compiled submodule: {', '.join(missed)}")
        return out

    return run


def read(
    model: nn.Module, variables: Mapping[str, Any], inputs: jax.Array, names: tuple[str, ...], **kwargs: Any
) -> tuple[Any, dict[str, jax.Array]]:
    """(output, {site: pre-activations of shape (batch, positions ..., neurons)}), through Flax's `intermediates`.

    Raises SiteError for a site that is not there or is called more than once.
    """
    out, captured = model.apply(
        variables,
        inputs,
        **{**kwargs, "mutable": ["intermediates"], "capture_intermediates": lambda m, _: "/".join(m.path) in names},
    )
    values = {}
    for name in names:
        sown = _sown(captured.get("intermediates", {}), name)
        if len(sown) != 1:
            raise SiteError(
                f"site {name!r} is used {len(sown)} times: give each use a module of its own name"
                if sown
                else f"site {name!r} gives no value: it is no site, or inside an nn.scan that keeps intermediates to "
                "itself (add variable_axes={'intermediates': 0} to it)"
            )
        values[name] = sown[0]
    return out, values


def below(
    model: nn.Module, variables: Mapping[str, Any], inputs: jax.Array, site: str, **kwargs: Any
) -> frozenset[str]:
    """Paths of the modules that had been called when the site was reached: what its pre-activation can depend on.

    The rest follows the site. Raises SiteError where the site is not reached.
    """
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

    def run(variables: Mapping[str, Any], inputs: jax.Array) -> Any:
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
    inputs: Float[Array, "batch ..."],
    labels: Array,
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
    inputs: Float[Array, "batch ..."],
    labels: Array,
    sites: Mapping[str, Site],
    objectives: Mapping[str, PerSampleLoss],
    derivative: Derivative = "activation",
    **kwargs: Any,
) -> dict[str, dict[str, jax.Array]]:
    """`activation_gradients` by `vmap` over batches of one: samples cannot mix, whatever the model does.

    XLA turns the mapped products back into whole-batch ones; measured, it costs what one backward pass costs.
    """

    def one(sample: jax.Array, label: jax.Array) -> dict[str, dict[str, jax.Array]]:
        gradients = activation_gradients(
            model, variables, sample[None], label[None], zeros(sites, 1), objectives, derivative, **kwargs
        )
        return jax.tree.map(lambda g: g[0], gradients)

    return jax.vmap(one)(inputs, labels)


_SITE_KINDS = (Neurons, nn.Dense, nn.DenseGeneral, nn.Conv)


def _is_site(module: nn.Module, method: str) -> bool:
    return method == "__call__" and isinstance(module, _SITE_KINDS)


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
    for part in name.split("/"):
        node = node.get(part, {})
    return node.get("pre_activation", node.get("__call__", ()))


def _describe(name: str, kind: str, seen: jax.ShapeDtypeStruct, sown: tuple, inputs: jax.Array) -> Site:
    trouble = ""
    if not sown:
        trouble = (
            f"site {name!r} is inside an nn.scan or nn.vmap that keeps intermediates to itself: add "
            "variable_axes={'intermediates': 0} to it, or record a site outside"
        )
    elif len(sown) > 1:
        trouble = (
            f"site {name!r} is used {len(sown)} times in one pass, so it has no single value: "
            "give each use a module of its own name"
        )
    elif sown[0].shape != seen.shape:
        trouble = (
            f"site {name!r} is inside an nn.scan or nn.vmap (one module, {sown[0].shape[0]} layers of values): "
            "read works there; to differentiate or replace it, unroll the layers into modules of their own"
        )
    elif not seen.shape or seen.shape[0] != inputs.shape[0]:
        trouble = (
            f"site {name!r} has shape {list(seen.shape)}, whose first axis is not the batch of {inputs.shape[0]}: "
            "record a site whose values keep one row a sample"
        )
    return Site(name, kind, tuple(seen.shape[1:]), seen.dtype, trouble)
