"""Reading and replacing pre-activations: interceptors around the calls of named submodules.

Everything here takes the module itself, never a function somebody has jitted: an interceptor that is installed after
tracing would be ignored in silence.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import PyTree

from neuron_mech.taps.finding import SiteError, path_of, sites
from neuron_mech.taps.intermediates import called_path, sown_by, with_intermediates
from neuron_mech.taps.neurons import Neurons

Edit = Callable[[jax.Array], jax.Array]

_LAYER = "neuron_mech_layer"
"""In `intermediates`: the number of the layer that a module is in, where layers are looped over."""


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
            path = called_path(context)
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
            "mutable": with_intermediates(kwargs),
            "capture_intermediates": lambda m, _: "/".join(m.path) in paths,
        },
    )
    values = {}
    for name in names:
        sown, use = sown_by(captured.get("intermediates", {}), path_of(name)), name.removeprefix(path_of(name))[1:]
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
        path = called_path(context)
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
