"""Pre-activations kept while a network trains: at which recordings, of which samples and neurons, at which positions.

A neuron's two categories are known only when training ends, so what is to be drawn of them must be kept until then. A
feature map is looked at in one random position of each sample.
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
"""Bytes of a `.npy` file before its values."""


@dataclass(frozen=True)
class Watch:
    """What one watch keeps.

    `segments[k]` is the segment before which row k is read. The samples are the first `samples` of `Study.recorded`, at
    a site that records fewer all of its own. By site, `neurons` are indices into the site's neurons, and `positions[s]`
    is the position at which its sample s is looked at (a flat index; 0 where the site has none).
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
        """Bytes of all its files."""
        return sum(HEADER + 4 * int(np.prod(self.shape(site))) for site in self.neurons)


def evenly(kept: int, recordings: int) -> Int[np.ndarray, " kept"]:
    """Which of so many recordings are kept: `kept` of them, or all, evenly spread, the first and last among them."""
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

    `places[site][s]` is the position at which sample s is looked at (a flat index; 0 where the site has none). A site
    may look at fewer samples than there are inputs: at the first so many. Random keys are folded with a sample's row.
    One chunk of samples at a time.
    """
    several = taps.batch_size(inputs)
    rngs = {name: kwargs.pop(name) for name in ("rngs",) if name in kwargs}

    def one(sample: PyTree, where: Mapping[str, Array], row: Array) -> tuple[dict[str, Array], Any]:
        batch = prepare(jax.tree.map(lambda leaf: leaf[None], sample))
        own, keys = random_keys.folded(variables, rngs, row)
        outputs, values = taps.read(model, own, batch, tuple(neurons), **kwargs, **keys)
        flat = {site: value[0].reshape(-1, value.shape[-1])[where[site]] for site, value in values.items()}
        return {site: value[neurons[site]] for site, value in flat.items()}, jax.tree.map(lambda o: o[0], outputs)

    # One pass looks at all sites; what it finds of samples at which a site does not look is dropped.
    every = {site: jnp.resize(jnp.asarray(places[site]), (several,)) for site in neurons}
    each = (inputs, every, jnp.arange(several))
    kept, outputs = jax.lax.map(lambda of: one(*of), each, batch_size=min(chunk, several))
    return {site: values[: len(places[site])] for site, values in kept.items()}, outputs


def watched_places(
    sites: Mapping[str, Site],
    rows: Mapping[str, int],
    samples: int,
    keys: Mapping[str, jax.Array],
    among: Mapping[str, Int[np.ndarray, " positions"] | None] = {},
) -> dict[str, Int[np.ndarray, " rows"]]:
    """By site, one random position for each of its first `rows` samples, drawn by the site's key.

    It is drawn of all samples, so that who looks at fewer of them looks in the same places, and of the positions in
    `among` where it has some for the site.
    """
    found = {}
    for name, site in sites.items():
        these = among.get(name)
        several = math.prod(site.shape[:-1]) if these is None else len(these)
        drawn = np.asarray(jax.random.randint(keys[name], (samples,), 0, several))[: rows[name]]
        found[name] = drawn if these is None else these[drawn]
    return found
