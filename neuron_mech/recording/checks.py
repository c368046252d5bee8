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
from neuron_mech.config import Derivative
from neuron_mech.errors import InputError, first_line, nearest
from neuron_mech.recording import auditing
from neuron_mech.recording.design import Design
from neuron_mech.recording.labelling import check_labels_fit
from neuron_mech.recording.reading import SignHealthWarning
from neuron_mech.taps import PerSampleLoss, Site, sample_mixing
from neuron_mech.taps.objectives import margin
from neuron_mech.taps.programs import explained
from neuron_mech.taps.random_keys import on_host

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


def check_asked(sites: Mapping[str, Site], derivative: Derivative | None, recordings: int) -> None:
    """Raise InputError where no site or no recording is asked for, or an activation of a site that has none."""
    if not sites:
        raise InputError("names is empty: name a site at least; neuron_mech.sites lists them")
    if derivative == "activation" and (without := [name for name, site in sites.items() if not site.activation]):
        raise InputError(
            f"derivative='activation', but {without[0]!r} is no activation function: leave derivative out, or name the "
            "function that follows, such as ':relu', or Neurons"
        )
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


def check_prepare(prepare: Callable[[PyTree], PyTree], given: PyTree, prepared: PyTree) -> None:
    """Raise InputError where `prepared`, the inputs made of `given`, are not made of each sample by itself."""
    if prepared is given:
        return
    for row in {0, taps.batch_size(given) - 1}:
        alone, among = prepare(jax.tree.map(lambda leaf, r=row: leaf[r : r + 1], given)), prepared
        trees: list[Any] = [jax.tree.structure(alone), jax.tree.structure(among)]
        wrong = trees[0] != trees[1] or any(
            one.shape != several[row : row + 1].shape
            or not np.allclose(one, several[row : row + 1], rtol=1e-4, atol=1e-6, equal_nan=True)
            for one, several in zip(jax.tree.leaves(alone), jax.tree.leaves(among), strict=True)
        )
        if wrong:
            raise InputError(
                f"prepare makes other inputs of sample {row} alone than of it among {taps.batch_size(given)}, as a "
                "mean over samples or chance does: make each row's of that row only, with a mean that is given"
            )


def check_loss(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    loss: PerSampleLoss,
    **kwargs: Any,
) -> PyTree:
    """The shapes of the outputs.

    The one place where losses are checked, for `signs` and recorders; `labelling.check_labels_fit` is that of labels.

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
                "your own, such as lambda out, y: softplus(jnp.where(y == 1, -out[:, 0], out[:, 0]))"
            )
        check_labels_fit(loss, labels, out)
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
    return out


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

    @jax.jit
    def reached(variables: PyTree, inputs: PyTree, labels: PyTree) -> Any:
        """Whether each output of the others is."""
        out = outputs(variables, inputs)
        if {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(out)} != {(size,)}:
            return []  # outputs that are none of the samples', such as a loss that the model adds
        floats, rest = _floats(out)
        of_first = lambda floats: loss(rest(floats), labels)[: size // 2].sum()  # noqa: E731
        others = [gradient[size // 2 :] for gradient in jax.grad(of_first)(floats)]
        # Where a derivative is infinite, zero times it is no number, and says nothing.
        return [jnp.any((gradient != 0) & jnp.isfinite(gradient)) for gradient in others]

    some = jax.tree.map(lambda leaf: leaf if len(leaf) == size else leaf[:size], (inputs, labels))
    if any(map(bool, reached(dict(variables), *some))):
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


def check_different(inputs: PyTree) -> None:
    """Raise InputError where inputs are one sample or the same several times, of which mixing cannot be seen."""
    if all(bool((leaf == leaf[:1]).all()) for leaf in map(on_host, jax.tree.leaves(inputs))):
        raise InputError(
            f"inputs are {taps.batch_size(inputs)} times the same, such as zeros: they do not show whether "
            "samples mix: give a few different ones, such as images[:8], or mixing='batch'"
        )


def check_mixing(design: Design, variables: Mapping[str, Any], inputs: PyTree, labels: PyTree) -> None:
    """Raise InputError where samples mix, with what mixes them and the ways out."""
    if taps.batch_size(inputs) < 4:  # the same several times: what mixes, mixes them too
        inputs, labels = jax.tree.map(lambda leaf: on_host(leaf)[[*range(len(leaf))] * 4], (inputs, labels))
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


def warn_of_signs(design: Design, variables: Mapping[str, Any], inputs: PyTree, labels: PyTree, half: bool) -> None:
    """Warn where double precision contradicts too many signs, or where derivatives are too small or not finite.

    Of the margin only where products are not exact, or values are of `half` precision: else float32 has its signs.
    """
    for name, loss in design.losses.items():
        if loss is margin and not half and design.precision != "fast":
            continue
        of_loss = f" of loss {name!r}" * (len(design.losses) > 1)
        for site, of in design.audit(variables, inputs, labels, name).items():
            if found := _complaints(design, of):
                warnings.warn(f"at {site!r}{of_loss} {'; '.join(found)}", SignHealthWarning, stacklevel=4)


def _complaints(design: Design, of: auditing.SignHealth) -> list[str]:
    """What is to be said of a site's signs."""
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
    return found
