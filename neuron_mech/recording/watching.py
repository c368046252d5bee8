"""Pre-activations kept during training: at which recordings, of which samples, neurons and positions.

A neuron's two categories are known only when training ends, so the values to be drawn by category must be kept until
then. Of a feature map, one random position of each sample is kept.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from neuron_mech import taps
from neuron_mech.taps import Site, random_keys

HEADER = 128
"""Bytes of a `.npy` file's header."""


@dataclass(frozen=True)
class Watch:
    """The recordings, samples, neurons and positions that a watch keeps.

    Row k is read before segment `segments[k]`. The samples are the first `samples` of `Study.recorded`, or all of a
    site that records fewer. By site, `neurons` are indices of neurons, and `positions` the flat index of the position
    that is read of each sample (0 where the site has no positions).
    """

    name: str
    segments: Int[np.ndarray, " kept"]
    samples: int
    neurons: Mapping[str, Int[np.ndarray, " neurons"]]
    positions: Mapping[str, Int[np.ndarray, " samples"]]

    def shape(self, site: str) -> tuple[int, int, int]:
        """(kept recordings, samples, neurons) of a site's file."""
        return len(self.segments), len(self.positions[site]), len(self.neurons[site])

    @property
    def nbytes(self) -> int:
        """Bytes of all files of the watch."""
        return sum(HEADER + 4 * int(np.prod(self.shape(site))) for site in self.neurons)


def evenly(kept: int, recordings: int) -> Int[np.ndarray, " kept"]:
    """Indices of `kept` of `recordings` recordings (or of all), evenly spread, including the first and the last."""
    return np.round(np.linspace(0, recordings - 1, min(kept, recordings))).astype(np.int64)


def read(
    model: nn.Module,
    variables: PyTree,
    inputs: PyTree,
    places: Mapping[str, Int[Array | np.ndarray, " samples"]],
    neurons: Mapping[str, Int[np.ndarray, " neurons"]],
    chunk: int,
    prepare: Callable[[PyTree], PyTree],
    **kwargs: Any,
) -> tuple[dict[str, Array], Any]:
    """({site: pre-activations of (samples, neurons)}, the outputs of all samples). Pure.

    `places[site][s]` is the flat index of the position read of sample s (0 where the site has no positions). A site may
    have fewer samples than there are inputs: the first of them. Random keys are folded with a sample's row. Reads one
    chunk of samples after another.
    """
    several = taps.batch_size(inputs)
    rngs = {name: kwargs.pop(name) for name in ("rngs",) if name in kwargs}

    def one(sample: PyTree, where: Mapping[str, Array], row: Array) -> tuple[dict[str, Array], Any]:
        batch = prepare(jax.tree.map(lambda leaf: leaf[None], sample))
        own, keys = random_keys.folded(variables, rngs, row)
        outputs, values = taps.read(model, own, batch, tuple(neurons), **kwargs, **keys)
        flat = {site: value[0].reshape(-1, value.shape[-1])[where[site]] for site, value in values.items()}
        return {site: value[neurons[site]] for site, value in flat.items()}, jax.tree.map(lambda o: o[0], outputs)

    # One pass reads all sites for all samples; rows beyond a site's samples are dropped.
    every = {site: jnp.resize(jnp.asarray(places[site]), (several,)) for site in neurons}
    each = (inputs, every, jnp.arange(several))
    kept, outputs = jax.lax.map(lambda of: one(*of), each, batch_size=min(chunk, several))
    return {site: values[: len(places[site])] for site, values in kept.items()}, outputs


def read_batch(
    model: nn.Module,
    variables: PyTree,
    inputs: PyTree,
    places: Mapping[str, Int[Array, " batch"]],
    neurons: Mapping[str, Int[np.ndarray, " neurons"]],
    start: Int[Array, ""],
    **kwargs: Any,
) -> dict[str, Array]:
    """{site: pre-activations of (batch, neurons)} of inputs that are one batch, at the sites in `places`. Pure.

    `start` is the number of its first row, which is folded into random keys.
    """
    own, keys = random_keys.folded(variables, {name: kwargs.pop(name) for name in ("rngs",) if name in kwargs}, start)
    _, values = taps.read(model, own, inputs, tuple(places), **kwargs, **keys)
    flat = {site: value.reshape(len(value), -1, value.shape[-1]) for site, value in values.items()}
    return {site: value[jnp.arange(len(value)), places[site]][:, neurons[site]] for site, value in flat.items()}


def watched_places(
    sites: Mapping[str, Site],
    rows: Mapping[str, int],
    samples: int,
    keys: Mapping[str, jax.Array],
    among: Mapping[str, Int[np.ndarray, " positions"] | None] = {},
) -> dict[str, Int[np.ndarray, " rows"]]:
    """By site, one random position for each of its first `rows` samples, drawn with the site's key.

    Positions are drawn for all samples, so that a smaller number of them gets the same positions. Where `among` has
    positions for a site, only these are drawn.
    """
    found = {}
    for name, site in sites.items():
        these = among.get(name)
        several = math.prod(site.shape[:-1]) if these is None else len(these)
        every = jax.random.randint(keys[name], (samples,), 0, several) if several > 1 else np.zeros(samples, np.int32)
        drawn = np.asarray(every)[: rows[name]]
        found[name] = drawn if these is None else these[drawn]
    return found
