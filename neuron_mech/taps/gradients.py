"""Derivatives of per-sample losses at sites, as those of zeros that are added there."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from neuron_mech import precision as precise
from neuron_mech.config import Derivative
from neuron_mech.precision import Precision, Product
from neuron_mech.taps.edits import Edit, edited
from neuron_mech.taps.finding import Site, SiteError

PerSampleLoss = Callable[[Any, Any], jax.Array]
"""(the model's outputs, the labels) -> one value a sample."""


def zeros(sites: Mapping[str, Site], batch: int) -> dict[str, jax.Array]:
    """Nudges for `activation_gradients`: zeros of each site's own shape for a batch of this size."""
    return {name: jnp.zeros((batch, *site.shape), site.dtype) for name, site in sites.items()}


def perturbed(
    model: nn.Module, perturbations: Mapping[str, jax.Array], derivative: Derivative = "activation"
) -> Callable[..., Any]:
    """`model.apply` with `perturbations` added at their sites, to the activation or the pre-activation.

    The derivative of a summed per-sample loss with respect to a perturbation of zeros is every sample's own derivative,
    in one backward pass, as long as samples do not mix (see `sample_mixing`).
    """
    edits = {site: _adding(site, perturbation) for site, perturbation in perturbations.items()}
    return edited(model, pre=edits) if derivative == "pre_activation" else edited(model, post=edits)


def activation_gradients(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    perturbations: Mapping[str, jax.Array],
    objectives: Mapping[str, PerSampleLoss],
    derivative: Derivative = "activation",
    precision: Precision | Product = "exact",
    **kwargs: Any,
) -> dict[str, dict[str, jax.Array]]:
    """{objective: {site: d objective / d activation}} of every sample, from one forward pass.

    An objective maps (outputs, labels) to one value a sample; `perturbations` are `zeros` for this batch's size. One
    backward pass an objective. Samples must not mix: what comes back is the derivative of the batch's *sum*. Unless
    `precision` is `fast`, products have float32's own precision on any device.
    """
    run = partial(_gradients, model, objectives, derivative, kwargs)
    return precise.at(precision, run)(variables, inputs, labels, dict(perturbations))


def _gradients(
    model: nn.Module,
    objectives: Mapping[str, PerSampleLoss],
    derivative: Derivative,
    kwargs: Mapping[str, Any],
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    perturbations: dict[str, jax.Array],
) -> dict[str, dict[str, jax.Array]]:
    """`activation_gradients`, in JAX's own precision."""

    def forward(perturbations: Mapping[str, jax.Array]) -> Any:
        out = perturbed(model, perturbations, derivative)(variables, inputs, **kwargs)
        # Flax returns (output, updated collections) when any are mutable: a recording drops the updates.
        return out if kwargs.get("mutable", False) is False else out[0]

    outputs, backward = jax.vjp(forward, perturbations)
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
    precision: Precision | Product = "exact",
    **kwargs: Any,
) -> dict[str, dict[str, jax.Array]]:
    """`activation_gradients` by `vmap` over batches of one: samples cannot mix, whatever the model does.

    XLA turns the mapped products back into whole-batch ones; measured, it costs what one backward pass costs.
    """

    def one(variables: PyTree, sample: PyTree, label: PyTree) -> dict[str, dict[str, jax.Array]]:
        sample, label = jax.tree.map(lambda leaf: leaf[None], (sample, label))
        gradients = _gradients(model, objectives, derivative, kwargs, variables, sample, label, zeros(sites, 1))
        return jax.tree.map(lambda g: g[0], gradients)

    return precise.at(precision, jax.vmap(one, in_axes=(None, 0, 0)))(variables, inputs, labels)


def _adding(site: str, perturbation: jax.Array) -> Edit:
    def add(value: jax.Array) -> jax.Array:
        if perturbation.shape != value.shape:
            raise SiteError(
                f"the perturbation at site {site!r} has shape {list(perturbation.shape)}, its values "
                f"{list(value.shape)}: broadcasting would sum gradients of several samples; build it with taps.zeros "
                "for this batch"
            )
        return value + perturbation

    return add
