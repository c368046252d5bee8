"""Reading, differentiating and replacing at sites given by name, glob or regular expression."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from neuron_mech import taps
from neuron_mech.config import Derivative
from neuron_mech.precision import Precision
from neuron_mech.recording.checks import check_loss
from neuron_mech.taps import Edit, PerSampleLoss
from neuron_mech.taps.naming import Names, selected
from neuron_mech.taps.objectives import margin


def read(
    model: nn.Module, variables: Mapping[str, Any], inputs: PyTree, names: Names = "all", **kwargs: Any
) -> tuple[Any, dict[str, Array]]:
    """(outputs, {site: pre-activations of shape (batch, positions ..., neurons)}). `kwargs` go to `model.apply`."""
    return taps.read(model, variables, inputs, tuple(selected(model, variables, inputs, names, **kwargs)), **kwargs)


def signs(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    names: Names = "all",
    loss: PerSampleLoss = margin,
    derivative: Derivative = "pre_activation",
    precision: Precision = "exact",
    **kwargs: Any,
) -> dict[str, Int[Array, "batch *values"]]:
    """{site: sign of every sample's own derivative, -1, 0 or 1}. `kwargs` go to `model.apply`.

    `loss` maps (outputs, labels) to one value a sample. Samples are differentiated as batches of one, so that they
    cannot mix. The derivative with respect to the "activation" is there at `Neurons` only. `precision` is "exact",
    products to float32's precision on any device, or "fast", as the device multiplies by default. Raises InputError for
    a loss that is not one value a sample, and for labels that are of no class.
    """
    sites = selected(model, variables, inputs, names, **kwargs)
    check_loss(model, variables, inputs, labels, loss, **kwargs)
    common = (model, variables, inputs, labels, sites, {"loss": loss}, derivative, precision)
    found = taps.per_sample_gradients(*common, **kwargs)
    return {site: jnp.sign(gradient).astype(jnp.int8) for site, gradient in found["loss"].items()}


def replace(model: nn.Module, edits: Mapping[str, Edit], where: Derivative = "pre_activation") -> Callable[..., Any]:
    """`model.apply` with what `edits` make of the values at sites: {name or glob: function of the whole array}.

    Raises SiteError when called, for what is no site and for an edit that changes shape or type.
    """

    def run(variables: Mapping[str, Any], inputs: PyTree, **kwargs: Any) -> Any:
        found = {
            site: edit for names, edit in edits.items() for site in selected(model, variables, inputs, names, **kwargs)
        }
        if where == "activation":
            return taps.edited(model, post=found)(variables, inputs, **kwargs)
        return taps.edited(model, pre=found)(variables, inputs, **kwargs)

    return run
