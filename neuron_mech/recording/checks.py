"""What a recorder refuses, or warns of, before it begins: losses, mixing samples, and signs that arithmetic decides."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from neuron_mech import taps
from neuron_mech.errors import InputError, first_line, nearest
from neuron_mech.recording import auditing
from neuron_mech.recording.design import Design
from neuron_mech.recording.reading import SignHealthWarning
from neuron_mech.taps import PerSampleLoss, sample_mixing
from neuron_mech.taps.objectives import check_labels, margin
from neuron_mech.taps.programs import explained

LOOKED_AT = 32
"""Samples on which a recorder is checked before it begins."""

Mixing = Literal["refuse", "alone", "batch"]
"""What to do where samples mix: refuse, record every sample as a batch of one, or record batches as they are."""


def check_keywords(of: str, function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise TypeError where the function `of` is given a keyword that `function` does not have, such as the model's."""
    known = inspect.signature(function).parameters
    for name in given:
        if name not in known:
            raise TypeError(
                f"{of} has no argument {name!r}: {nearest(name, known)}what the model takes is "
                f"apply={{{name!r}: ...}}, or Inputs(..., {name}=...) where it goes with the samples"
            )


def check_recordings(recordings: int) -> None:
    """Raise InputError where there would be none."""
    if recordings < 1:
        raise InputError(f"recordings={recordings}: say how many recordings there will be, at least one")


def check_apply(apply: Mapping[str, Any], size: int) -> None:
    """Raise InputError where what is the same for all samples has as many rows as there are samples."""
    for name, value in apply.items():
        if name == "rngs":
            continue
        for leaf in jax.tree.leaves(value):
            if getattr(leaf, "shape", ())[:1] == (size,) and size > 1:
                raise InputError(
                    f"apply has {name!r} of shape {list(leaf.shape)}, a row for each of {size} samples: what goes with "
                    f"the samples is an input, Inputs(..., {name}=...); what does not, give in a method: "
                    f"apply={{'method': lambda m, x: m(x, {name}=...)}}"
                )


def check_loss(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    loss: PerSampleLoss,
    **kwargs: Any,
) -> int | None:
    """Of how many classes outputs are, or None where they are not one array of these.

    The one place where losses are checked, for `signs` and recorders.

    Raises InputError where the loss is not one value a sample, where one sample's value is made of another's outputs,
    or where outputs are none that a margin can be of.
    """
    size = taps.batch_size(inputs)

    def outputs(variables: PyTree, inputs: PyTree) -> Any:
        args, words = taps.arguments((inputs,), kwargs)
        out = model.apply(variables, *args, **words)
        return out if kwargs.get("mutable", False) is False else out[0]

    with explained(model):
        out = jax.eval_shape(outputs, dict(variables), inputs)
    classes = out.shape[-1] if isinstance(out, jax.ShapeDtypeStruct) and len(out.shape) == 2 else None
    if loss is margin:
        if classes is None:
            raise InputError(
                f"the model's outputs have shape {jax.tree.map(lambda leaf: list(leaf.shape), out)}, not one array of "
                "(batch, classes): give a loss= of your own, (outputs, labels) -> one value a sample, such as "
                "lambda out, y: neuron_mech.margin(out['logits'], y)"
            )
        if classes < 2:
            raise InputError(
                "the outputs are of 1 class, and a margin is between two at least: one logit a sample needs a loss= of "
                "your own, such as lambda out, y: softplus((1 - 2 * y) * out[:, 0]) for labels 0 and 1"
            )
        check_labels_fit(loss, labels, classes)
    try:
        value = jax.eval_shape(loss, out, labels)
    except (TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
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
    if loss is not margin:
        _check_loss_of_one(outputs, variables, inputs, labels, loss)
    return classes


def check_labels_fit(loss: PerSampleLoss, labels: PyTree, classes: int | None) -> None:
    """Raise InputError where labels are of no class that a margin has, or not one for each sample.

    Of another loss, where it is no number for a label that is of none of the outputs' classes: its derivatives are
    numbers all the same, and not those of any class.
    """
    if classes is None or loss is not margin:
        if classes is not None:
            _check_label_outside(loss, labels, classes)
        return
    if not hasattr(labels, "shape") or len(labels.shape) != 1:
        shapes = ", ".join(str(list(jnp.shape(leaf))) for leaf in jax.tree.leaves(labels))
        raise InputError(
            f"labels have shape {shapes}: a margin takes one class index a sample, in one row; one-hot labels are "
            "labels.argmax(-1)"
        )
    check_labels(labels, classes, "labels")


def _check_label_outside(loss: PerSampleLoss, labels: PyTree, classes: int) -> None:
    if isinstance(labels, jax.core.Tracer) or not hasattr(labels, "shape") or len(labels.shape) != 1:
        return
    here = np.asarray(labels)
    outside = (here < 0) | (here >= classes)
    if not np.issubdtype(here.dtype, np.integer) or not outside.any():
        return
    rule = f"which is none of the outputs' {classes} classes, 0 to {classes - 1}"
    outputs = jnp.linspace(0.1, 1.0, classes)[None]  # any that no usual loss is infinite at
    row = int(np.argmax(outside))
    if bool(jnp.isnan(loss(outputs, jnp.asarray(labels)[row : row + 1])).any()):
        raise InputError(
            f"loss is no number for label {here[row]} (in row {row}), {rule}: give every sample its class, "
            "counted from 0"
        )
    counted_back = (here < 0) & (here >= -classes)
    if not counted_back.any():
        return
    # Is -1 taken for the last class, as an index is? A loss that means something by a negative label does not repeat
    # itself class by class.
    every = jnp.arange(-classes, classes).astype(here.dtype)
    below, within = jnp.split(loss(jnp.repeat(outputs, 2 * classes, axis=0), every), 2)
    if bool((below == within).all()) and len(np.unique(within)) == classes:
        row = int(np.argmax(counted_back))
        raise InputError(
            f"loss takes label {here[row]} (in row {row}), {rule}, for class {here[row] + classes}: leave such samples "
            "out, or give a loss that is 0 for them"
        )


def _check_loss_of_one(
    outputs: Callable[[PyTree, PyTree], Any],
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    loss: PerSampleLoss,
) -> None:
    """Raise InputError where the loss of the first samples has a derivative with respect to outputs of the others."""
    size = min(taps.batch_size(inputs), 8)
    if size < 2 or any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((variables, inputs, labels))):
        return
    some = jax.tree.map(lambda leaf: leaf[:size], (inputs, labels))
    out = jax.jit(outputs)(dict(variables), some[0])
    if {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(out)} != {(size,)}:
        return  # outputs that are none of the samples', such as a loss that the model adds
    floats, rest = _floats(out)
    of_first = lambda floats: loss(rest(floats), some[1])[: size // 2].sum()  # noqa: E731
    # Where a derivative is infinite, zero times it is no number, and says nothing.
    others = [gradient[size // 2 :] for gradient in jax.grad(of_first)(floats)]
    if any(bool(jnp.any((gradient != 0) & jnp.isfinite(gradient))) for gradient in others):
        raise InputError(
            "the loss of one sample is made of other samples' outputs, as a contrastive loss is, so that no sample has "
            "a derivative of its own: give a loss of each sample's own outputs, or with the others held fixed, as "
            "part of its labels"
        )


def _floats(tree: PyTree) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """(arrays of floats, the function that puts others in their places)."""
    leaves, structure = jax.tree.flatten(tree)
    where = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def rest(floats: list[Array]) -> PyTree:
        every = list(leaves)
        for i, leaf in zip(where, floats, strict=True):
            every[i] = leaf
        return jax.tree.unflatten(structure, every)

    return [leaves[i] for i in where], rest


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
    """Warn where double precision contradicts too many signs, or where derivatives are too small or not finite."""
    for site, of in design.audit(variables, inputs, labels).items():
        found = []
        if of.wrong > auditing.LIMIT or of.zeroed > auditing.LIMIT:
            fast = design.precision == "fast"
            way_out = "precision='exact'" if fast else "loss=margin, which has the exact signs of a cross-entropy"
            found.append(
                f"{of.wrong:.2%} of signs are wrong and {of.zeroed:.2%} are lost in this arithmetic "
                f"({of.underflowed:.2%} underflow): take {way_out}"
            )
        if of.unresolved > auditing.LIMIT:
            found.append(
                f"{of.unresolved:.2%} of signs are of derivatives at most {auditing.RESOLUTION:.0e} of the largest, "
                "which are zero to this arithmetic: rounding decides them"
            )
        if of.not_finite:
            found.append(f"{of.not_finite:,} derivatives are not finite: they count as no sign")
        if found:
            warnings.warn(f"at {site!r} {'; '.join(found)}", SignHealthWarning, stacklevel=4)
