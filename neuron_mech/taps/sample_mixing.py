"""Does another sample's input change a sample's derivative? With batch statistics it does; recordings check for it."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core.tracers import current_trace
from jaxtyping import PyTree

from neuron_mech import taps
from neuron_mech.config import Derivative
from neuron_mech.errors import InputError
from neuron_mech.taps import PerSampleLoss, Site
from neuron_mech.taps.random_keys import on_host

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
    statistics.) Rounding alone stays below 1e-4 in float32.

    Arguments:
        model: a Linen module.
        variables: what `model.apply` takes.
        inputs: at least four samples, which must differ: of equal ones, mixing cannot be seen.
        labels: what the objective takes beside the outputs; they are replaced together with the inputs.
        sites: {name: Site}, as `taps.sites` or `taps.select` give them.
        objective: (outputs, labels) -> one value a sample. One that mixes samples is seen too.
        derivative: with respect to the "activation" or the "pre_activation".
        **kwargs: go to `model.apply`.

    Returns:
        {site: change}, from 0 on, without a unit; NaN where derivatives become, or cease to be, NaN.

    Raises InputError for a batch of less than four, and where `taps.activation_gradients` does.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> from neuron_mech import taps
    >>> from neuron_mech.taps import objectives, sample_mixing
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> sites = taps.select(taps.sites(model, variables, x), ["layers_2"])
    >>> sample_mixing.mixing(model, variables, x, labels, sites, objectives.margin, "pre_activation")
    {'layers_2': 0.0}
    """
    size = taps.batch_size(inputs)
    if size < 4:
        raise InputError(f"the check for mixing samples needs a batch of at least 4 samples, not {size}")

    @jax.jit
    def gradients(variables: PyTree, inputs: PyTree, labels: PyTree) -> dict[str, jax.Array]:
        perturbations = taps.zeros(sites, size)
        found = taps.activation_gradients(
            model, variables, inputs, labels, perturbations, {"objective": objective}, derivative, **kwargs
        )
        return jax.tree.map(lambda g: g[: size // 2], found["objective"])

    given = dict(variables)
    alone = gradients(given, inputs, labels)
    beside = gradients(given, *jax.tree.map(_half_replaced, (inputs, labels)))
    return {site: _change(alone[site], beside[site]) for site in sites}


def mixing_layers(model: nn.Module, variables: Mapping[str, Any], inputs: PyTree, **kwargs: Any) -> list[str]:
    """Names of the modules in which samples begin to mix, in a forward pass: outputs change though inputs do not.

    Arguments:
        model: a Linen module.
        variables: what `model.apply` takes.
        inputs: at least two samples, which must differ: of equal ones, mixing cannot be seen.
        **kwargs: go to `model.apply`.

    Returns:
        Names with their modules' classes, in the order of computation. Each is as small a module as there is: not one
            that merely contains another that mixes. Empty where none does.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> from neuron_mech.taps import sample_mixing
    >>> model = nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=False)])
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> sample_mixing.mixing_layers(model, variables, x, mutable=["batch_stats"])
    ['layers_1 (BatchNorm)']
    """
    half = taps.batch_size(inputs) // 2
    seen: dict[str, str] = {}

    @jax.jit
    def run(variables: PyTree, inputs: PyTree) -> dict[str, tuple[list[jax.Array], list[jax.Array]]]:
        values: dict[str, tuple[list[jax.Array], list[jax.Array]]] = {}
        outermost = current_trace()

        def notice(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            # Values of modules inside a transformed one belong to its trace, and cannot be seen from here.
            inside = current_trace() != outermost
            out = call(*args, **kwargs)
            name = "/".join(context.module.path)
            if context.method_name == "__call__" and name not in values:
                seen[name] = type(context.module).__name__
                values[name] = ([], []) if inside else (_floats(args), _floats(out))
            return out

        with nn.intercept_methods(notice):
            args, words = taps.arguments((inputs,), kwargs)
            model.apply(variables, *args, **words)
        return values

    given = dict(variables)
    alone, beside = run(given, inputs), run(given, jax.tree.map(_half_replaced, inputs))

    def differ(one: list[jax.Array], other: list[jax.Array]) -> bool:
        return any(_change(a, b, half) > LIMIT for a, b in zip(one, other, strict=True))

    mixing = [
        name
        for name, (entered, left) in alone.items()
        if differ(left, beside[name][1]) and not differ(entered, beside[name][0])
    ]
    inside = lambda name: any(other != name and other.startswith(f"{name}/" if name else "") for other in mixing)  # noqa: E731
    return [f"{name or 'the model'} ({seen[name]})" for name in mixing if not inside(name)]


def _half_replaced(leaf: Any) -> Any:
    half = len(leaf) // 2
    return on_host(leaf)[np.r_[:half, np.zeros(len(leaf) - half, int)]]


def _change(one: jax.Array, other: jax.Array, rows: int | None = None) -> float:
    """The largest difference of the first rows, relative to the largest finite magnitude; NaN in both is none."""
    a, b = np.asarray(one)[:rows], np.asarray(other)[:rows]
    with np.errstate(all="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        largest = np.max(np.where(np.isfinite(a), np.abs(a), np.zeros_like(a)))
        change = np.max(np.where(same, np.zeros_like(a), np.abs(a - b)))
        return float(change / np.maximum(largest, np.asarray(1e-30, a.dtype)))


def _floats(tree: PyTree) -> list[jax.Array]:
    """All arrays of floats, but for single numbers."""
    leaves = (leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array) and leaf.ndim)
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
