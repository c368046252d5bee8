"""Does another sample's input change my derivative? Batch statistics make it so, and a recording must know."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuron_mech import taps
from neuron_mech.errors import InputError
from neuron_mech.presets import Derivative
from neuron_mech.taps import PerSampleLoss, Site

LIMIT = 1e-4
"""Above this, `leakage` is more than float32 rounding."""


def leakage(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: Float[Array, "batch ..."],
    labels: Array,
    sites: Mapping[str, Site],
    objective: PerSampleLoss,
    derivative: Derivative = "activation",
    **kwargs: Any,
) -> dict[str, float]:
    """How much a sample's derivative depends on the samples beside it, per site: 0 where samples do not mix.

    The batch's second half is replaced by copies of its first sample; the value is the largest change of the first
    half's derivatives, relative to their largest magnitude. (Permuting the others would not do: batch statistics do
    not see an order.) Rounding alone stays below 1e-4 in float32. Needs a batch of at least four.
    """
    if inputs.shape[0] < 4:
        raise InputError(f"the leakage check needs a batch of at least 4 samples, not {inputs.shape[0]}")
    half = inputs.shape[0] // 2

    @jax.jit
    def gradients(inputs: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        nudges = taps.zeros(sites, inputs.shape[0])
        found = taps.activation_gradients(
            model, variables, inputs, labels, nudges, {"objective": objective}, derivative, **kwargs
        )
        return jax.tree.map(lambda g: g[:half], found["objective"])

    alone = gradients(inputs, labels)
    beside = gradients(
        jnp.concatenate([inputs[:half], jnp.repeat(inputs[:1], len(inputs) - half, axis=0)]),
        jnp.concatenate([labels[:half], jnp.repeat(labels[:1], len(labels) - half, axis=0)]),
    )
    change = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(a)), 1e-30), alone, beside)
    return {site: float(value) for site, value in change.items()}
