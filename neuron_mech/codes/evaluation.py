"""Accuracy of a network under many codes, at many sites: a code replaces the site's pre-activations.

The samples are read once. The layers before a site run once a chunk, whatever the number of codes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from neuron_mech import taps
from neuron_mech.cluster import processes
from neuron_mech.taps import Site
from neuron_mech.training.datasets import Samples, Stream, walk

K = TypeVar("K")

Code = Callable[[PyTree, jax.Array, Array], jax.Array]
"""(one code, the batch's pre-activations, a random key) -> the values that replace them."""


Replaced = Literal["pre_activation", "activation"]
"""The values that a code replaces."""


@partial(jax.tree_util.register_dataclass, data_fields=["codes", "key"], meta_fields=["site", "code", "replace"])
@dataclass(frozen=True)
class Trial:
    """Several codes of one kind at a site: a function, and the numbers of each code along a leading axis.

    The codes of `quantization` are `quantized`, `noisy` and `permuted`; any function of (one code, pre-activations,
    random key) that keeps the pre-activations' shape and type is another. The trial is a pytree.

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech.codes.evaluation import Trial
    >>> def scaled(factor, pre_activation, key):
    ...     return factor * pre_activation
    >>> trial = Trial("dense1", scaled, jnp.array([0.0, 0.5, 1.0]), jax.random.key(0))
    >>> jax.vmap(lambda code: trial.code(code, jnp.ones(4), trial.key))(trial.codes)[:, 0].tolist()
    [0.0, 0.5, 1.0]
    """

    site: str
    """Name of the site, as `taps.sites` has it."""
    code: Code
    """A module-level function, so that it is compiled only once."""
    codes: PyTree
    """Arrays with the codes, one at least, along their first axis."""
    key: Array
    """Random key, folded with the start of each chunk; the same for every code."""
    replace: Replaced = "pre_activation"
    """Whether the code replaces pre-activations or activations."""


def unchanged(code: PyTree, pre_activation: Array, key: Array) -> Array:
    """The code that changes nothing."""
    return pre_activation


def right(logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"], top: int = 1) -> Bool[Array, "*batch"]:
    """Whether the label is among the `top` largest logits. Of equal ones the first counts as larger, as for argmax."""
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    index = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    first = index.reshape((1,) * labels.ndim + (-1,)) >= labels[..., None]
    # Counted by how many logits the label beats, so that a label whose logit is NaN beats none.
    return logits.shape[-1] - ((logits < own) | ((logits == own) & first)).sum(-1) < top


def logits_of_codes(
    trial: Trial, model: nn.Module, variables: Mapping[str, Any], inputs: jax.Array, values: jax.Array
) -> Float[Array, "codes batch classes"]:
    """The network's outputs under each of a trial's codes, from the site's pre-activations `values`.

    The layers before the site do not run; `inputs` only give the batch's shape.
    """

    def one(part: PyTree) -> jax.Array:
        if trial.replace == "activation":
            after = {trial.site: lambda activation: trial.code(part, activation, trial.key)}
            return taps.edited(model, pre={trial.site: lambda _: values}, post=after)(variables, inputs)
        return taps.edited(model, pre={trial.site: lambda _: trial.code(part, values, trial.key)})(variables, inputs)

    return jax.vmap(one)(trial.codes)


@partial(jax.jit, static_argnames=("model", "sites"))
def _read(model: nn.Module, sites: tuple[str, ...], variables: Mapping[str, Any], samples: Samples) -> dict[str, Array]:
    return taps.read(model, variables, samples.inputs, sites)[1]


@partial(jax.jit, static_argnames=("model", "top"))
def _right(
    trial: Trial, model: nn.Module, top: int, variables: Mapping[str, Any], samples: Samples, values: jax.Array
) -> Array:
    outputs = logits_of_codes(trial, model, variables, samples.inputs, values)
    labels = jnp.broadcast_to(samples.labels, outputs.shape[:2])
    return right(outputs, labels, top).sum(axis=1)


def accuracies(
    model: nn.Module,
    variables: Mapping[str, Any],
    sites: Mapping[str, Site],
    trials: Mapping[K, Trial],
    samples: Samples | Stream,
    top: int = 1,
    rows: int = 4000,
    labels: Int[np.ndarray, " classes"] | None = None,
) -> dict[K, Float[np.ndarray, " codes"]]:
    """Accuracy of the network on `samples` under each code of every trial; every sample counts once.

    The network runs in evaluation mode: what precedes a trial's site once a chunk, what follows it once for each code.

    Arguments:
        model: the network; its call gives logits of shape (samples, classes).
        variables: what `model.apply` takes.
        sites: shapes by site (`taps.sites`), by which chunks are made to fit in memory.
        trials: by any names, one at least; all are asked in one pass. A trial of `unchanged` is the network as it is.
        samples: one at least.
        top: a sample is right where its label is among the `top` largest outputs; never where its output is NaN.
        rows: samples in a chunk times the codes of the largest trial, or fewer (`taps.fitting`). With 4,000 a chunk's
            arrays fit a CPU's cache, which halves the time of eleven codes.
        labels: an array of integers, to which the number of samples of each class is added; None to count none.

    Returns:
        {name: float64 of shape (codes,)}, shares from 0 to 1. With several processes each reads its share of the
        chunks, and all have the whole result.

    Raises SiteError for a trial's site that the model does not have.

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech import taps, training
    >>> from neuron_mech.codes import evaluation, quantization
    >>> from neuron_mech.training import models
    >>> from neuron_mech.training.datasets import Samples
    >>> samples = Samples(jnp.ones((20, 4, 4, 1), jnp.uint8), jnp.arange(20) % 10, largest=1)
    >>> model = models.MLP(neurons=8)
    >>> variables = training.begun(model, jax.random.key(0), samples.inputs)
    >>> sites = taps.sites(model, variables, samples.inputs)
    >>> codes = quantization.at_ranks(taps.read(model, variables, samples.inputs, ("dense1",))[1]["dense1"], [20, 50])
    >>> trial = evaluation.Trial("dense1", quantization.quantized, codes, jax.random.key(1))
    >>> evaluation.accuracies(model, variables, sites, {"two values": trial}, samples)["two values"].tolist()
    [0.1, 0.1]
    """
    most = max(jax.tree.leaves(trial.codes)[0].shape[0] for trial in trials.values())
    names = tuple(dict.fromkeys(trial.site for trial in trials.values()))
    chunk = max(1, taps.fitting(sites, rows) // most)
    counts = {name: np.zeros(jax.tree.leaves(trial.codes)[0].shape[0], np.int64) for name, trial in trials.items()}
    seen, frequency = np.zeros(1, np.int64), np.zeros(0 if labels is None else len(labels), np.int64)
    for start, part in _own_parts(samples, chunk, "evaluating codes"):
        values = _read(model, names, variables, part)
        now = {name: replace(trial, key=jax.random.fold_in(trial.key, start)) for name, trial in trials.items()}
        found = {name: _right(of, model, top, variables, part, values[of.site]) for name, of in now.items()}
        counts = {name: counts[name] + np.asarray(count, np.int64) for name, count in found.items()}
        seen += len(part)
        if labels is not None:
            frequency += np.bincount(part.labels, minlength=len(frequency))
    whole = processes.all_sum(seen)
    if labels is not None:
        labels += processes.all_sum(frequency)
    return {name: processes.all_sum(count) / whole for name, count in counts.items()}


def _own_parts(samples: Samples | Stream, chunk: int, what: str) -> Iterator[tuple[int, Samples]]:
    """(start, chunk) of this process's share of the chunks; chunks are the same for any number of processes."""
    starts = processes.shard(range(0, len(samples), chunk))
    if processes.several():
        ids = [np.arange(start, min(start + chunk, len(samples))) for start in starts]
        samples = samples.rows(np.concatenate([np.arange(0), *ids]))
    if len(starts):
        # zip draws a chunk first, so that a stream is read to its end. It has fewer chunks if it skips corrupt images.
        for part, start in zip(walk(samples, chunk, what), starts, strict=False):
            yield start, part


@partial(jax.jit, static_argnames=("model", "top"))
def _right_as_it_is(model: nn.Module, top: int, variables: Mapping[str, Any], samples: Samples) -> Array:
    logits: Any = model.apply(variables, samples.inputs)
    return right(logits, samples.labels, top).sum()


def as_it_is(
    model: nn.Module,
    variables: Mapping[str, Any],
    sites: Mapping[str, Site],
    samples: Samples | Stream,
    classes: int,
    top: int = 1,
) -> tuple[float, float]:
    """(the network's accuracy, that of always naming the `top` most frequent labels) on `samples`."""
    found, frequency = np.zeros(1, np.int64), np.zeros(classes, np.int64)
    for _, part in _own_parts(samples, taps.fitting(sites, 1000), "evaluating the network"):
        found += int(_right_as_it_is(model, top, variables, part))
        frequency += np.bincount(part.labels, minlength=classes)
    hits, frequency = int(processes.all_sum(found)[0]), processes.all_sum(frequency)
    seen = int(frequency.sum())
    return hits / seen, int(np.sort(frequency)[-top:].sum()) / seen
