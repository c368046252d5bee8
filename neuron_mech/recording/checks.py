"""What a recorder refuses, or warns of, before it begins: losses, mixing samples, and signs that arithmetic decides."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from neuron_mech import taps
from neuron_mech.errors import InputError, first_line
from neuron_mech.recording import auditing
from neuron_mech.recording.design import Design
from neuron_mech.taps import PerSampleLoss, sample_mixing
from neuron_mech.taps.objectives import check_labels, margin

LOOKED_AT = 32
"""Samples on which a recorder is checked before it begins."""

Mixing = Literal["refuse", "alone", "batch"]
"""What to do where samples mix: refuse, record every sample as a batch of one, or record batches as they are."""


class SignHealthWarning(UserWarning):
    """Too many signs that the arithmetic decides, and not the network."""


def check_loss(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    loss: PerSampleLoss,
    every: PyTree = None,
    **kwargs: Any,
) -> None:
    """Raise InputError where the loss is not one value a sample, or where labels are of no class that a margin has.

    `every` are all labels, where `inputs` and `labels` are of some samples.
    """
    size = taps.batch_size(inputs)

    def outputs(variables: PyTree, inputs: PyTree) -> Any:
        out = model.apply(variables, inputs, **kwargs)
        return out if kwargs.get("mutable", False) is False else out[0]

    out = jax.eval_shape(outputs, dict(variables), inputs)
    if loss is margin and (len(jax.tree.leaves(out)) != 1 or jax.tree.leaves(out)[0].ndim != 2):
        shapes = [list(leaf.shape) for leaf in jax.tree.leaves(out)]
        raise InputError(
            f"the model's outputs have shape {', '.join(map(str, shapes))}, not (batch, classes): give a loss= of your "
            "own, (outputs, labels) -> one value a sample"
        )
    if loss is margin:
        for leaf in jax.tree.leaves(labels if every is None else every):
            check_labels(leaf, jax.tree.leaves(out)[0].shape[-1], "labels")
    try:
        value = jax.eval_shape(loss, out, labels)
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"loss cannot take the model's outputs and these labels, {jax.tree.map(jnp.shape, (out, labels))}: "
            f"{first_line(error)}"
        ) from error
    shape = getattr(value, "shape", None)
    if shape == ():
        raise InputError(
            "loss returns one number for the whole batch, as a mean does: return one value a sample, before .mean()"
        )
    if shape != (size,):
        raise InputError(
            f"loss returns {'no array' if shape is None else list(shape)} for {size} samples: return one value a "
            "sample, summed over all else"
        )


def check_mixing(design: Design, variables: Mapping[str, Any], inputs: PyTree, labels: PyTree) -> None:
    """Raise InputError where samples mix, with what mixes them and the ways out."""
    if taps.batch_size(inputs) < 4:
        return
    common = (design.model, variables, inputs, labels)
    found = sample_mixing.mixing(
        *common, design.sites, design.losses[design.main], design.derivative, **design.arguments
    )
    leaking = {site: value for site, value in found.items() if not value <= sample_mixing.LIMIT}
    if not leaking:
        return
    site, worst = max(leaking.items(), key=lambda pair: pair[1])
    layers = sample_mixing.mixing_layers(design.model, variables, inputs, **design.arguments)
    clean = [site for site in found if site not in leaking]
    raise InputError(
        f"another sample's input changes a sample's own derivative (at {site!r} by up to {worst:.0%}), through "
        f"{', '.join(layers) or 'the loss'}. Four ways out: running statistics, where the model has an argument for "
        "them (train=False, use_running_average=True, eval() in NNX); mixing='alone', every sample a batch of one; "
        "mixing='batch', batches as they are, knowingly; or "
        f"only sites that do not mix ({', '.join(clean) or 'here none'})"
    )


def warn_of_signs(design: Design, variables: Mapping[str, Any], inputs: PyTree, labels: PyTree) -> None:
    """Warn where double precision contradicts too many signs."""
    try:
        health = design.audit(variables, inputs, labels)
    except InputError as error:
        warnings.warn(f"signs could not be held against double precision: {error}", SignHealthWarning, stacklevel=4)
        return
    for site, of in health.items():
        if of.wrong > auditing.LIMIT or of.zeroed > auditing.LIMIT:
            fast = design.precision == "fast"
            way_out = "precision='exact'" if fast else "loss=margin, which has the exact signs of a cross-entropy"
            warnings.warn(
                f"at {site!r} {of.wrong:.2%} of signs are wrong and {of.zeroed:.2%} are lost in this arithmetic "
                f"({of.underflowed:.2%} underflow): take {way_out}",
                SignHealthWarning,
                stacklevel=4,
            )
