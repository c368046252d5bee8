"""Does another sample's input change a sample's derivative? With batch statistics it does; recordings check for it."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from neuron_mech import taps
from neuron_mech.config import Derivative
from neuron_mech.errors import InputError
from neuron_mech.taps import PerSampleLoss, Site

LIMIT = 1e-4
"""A value of `mixing` above this is more than float32 rounding."""


def mixing(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    sites: Mapping[str, Site],
    objective: PerSampleLoss,
    derivative: Derivative = "activation",
    **kwargs: Any,
) -> dict[str, float]:
    """How much a sample's derivative depends on the samples beside it, per site: 0 where samples do not mix.

    The batch's second half is replaced by copies of its first sample; the value is the largest change of the first
    half's derivatives, relative to their largest magnitude. (Permuting the other samples would not change batch
    statistics.) Rounding alone stays below 1e-4 in float32. Raises InputError for a batch of less than four.
    """
    size = taps.batch_size(inputs)
    if size < 4:
        raise InputError(f"the check for mixing samples needs a batch of at least 4 samples, not {size}")

    @jax.jit
    def gradients(inputs: PyTree, labels: PyTree) -> dict[str, jax.Array]:
        perturbations = taps.zeros(sites, size)
        found = taps.activation_gradients(
            model, variables, inputs, labels, perturbations, {"objective": objective}, derivative, **kwargs
        )
        return jax.tree.map(lambda g: g[: size // 2], found["objective"])

    alone = gradients(inputs, labels)
    beside = gradients(*jax.tree.map(_half_replaced, (inputs, labels)))
    return {site: float(_change(alone[site], beside[site])) for site in sites}


def mixing_layers(model: nn.Module, variables: Mapping[str, Any], inputs: PyTree, **kwargs: Any) -> list[str]:
    """Names of the modules in which samples begin to mix, in a forward pass: outputs change though inputs do not.

    Each is as small a module as there is: not one that merely contains another that mixes. Empty where none does.
    """
    half = taps.batch_size(inputs) // 2
    seen: dict[str, str] = {}

    def run(variables: PyTree, inputs: PyTree) -> dict[str, tuple[list[jax.Array], list[jax.Array]]]:
        values: dict[str, tuple[list[jax.Array], list[jax.Array]]] = {}

        def notice(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            out = call(*args, **kwargs)
            name = "/".join(context.module.path)
            if context.method_name == "__call__" and name not in values:
                seen[name] = type(context.module).__name__
                values[name] = (_seen(args), _seen(out))
            return out

        with nn.intercept_methods(notice):
            args, words = taps.arguments((inputs,), kwargs)
            model.apply(variables, *args, **words)
        return values

    # Not compiled: values of modules inside a transformed one belong to its trace, and are left out by `_seen`. What
    # `nn.jit` has compiled in the first run is not called again in the second.
    alone, beside = run(variables, inputs), run(variables, jax.tree.map(_half_replaced, inputs))

    def differ(one: list[jax.Array], other: list[jax.Array]) -> bool:
        return any(float(_change(a[:half], b[:half])) > LIMIT for a, b in zip(one, other, strict=True))

    mixing = [
        name
        for name, (given, got) in alone.items()
        if name in beside and differ(got, beside[name][1]) and not differ(given, beside[name][0])
    ]
    inside = lambda name: any(other != name and other.startswith(f"{name}/" if name else "") for other in mixing)  # noqa: E731
    return [f"{name or 'the model'} ({seen[name]})" for name in mixing if not inside(name)]


def _half_replaced(leaf: jax.Array) -> jax.Array:
    half = len(leaf) // 2
    return jnp.concatenate([leaf[:half], jnp.repeat(leaf[:1], len(leaf) - half, axis=0)])


def _change(one: jax.Array, other: jax.Array) -> jax.Array:
    """The largest difference, relative to the largest finite magnitude; NaN in both is no difference."""
    same = (one == other) | (jnp.isnan(one) & jnp.isnan(other))
    largest = jnp.max(jnp.where(jnp.isfinite(one), jnp.abs(one), 0))
    return jnp.max(jnp.where(same, 0, jnp.abs(one - other))) / jnp.maximum(largest, 1e-30)


def _seen(tree: PyTree) -> list[jax.Array]:
    """All floating-point arrays that can be seen from here, as they are: to slice one would be part of a trace."""
    leaves = (leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array) and leaf.ndim)
    return [a for a in leaves if not isinstance(a, jax.core.Tracer) and jnp.issubdtype(a.dtype, jnp.floating)]
