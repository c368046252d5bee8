"""Pre-activations kept while a network trains: at which recordings, of which samples and neurons, at which positions.

A neuron's two categories are known only when training ends, so what is to be drawn of them must be kept until then. A
feature map is looked at in one random position of each sample.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from neuron_mech import taps
from neuron_mech.taps import Site


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
    may look at fewer samples than there are inputs: at the first so many. One chunk of samples at a time.
    """
    several = taps.batch_size(inputs)

    def one(sample: PyTree, where: Mapping[str, Array]) -> tuple[dict[str, Array], Any]:
        batch = prepare(jax.tree.map(lambda leaf: leaf[None], sample))
        outputs, values = taps.read(model, variables, batch, tuple(neurons), **kwargs)
        flat = {site: value[0].reshape(-1, value.shape[-1])[where[site]] for site, value in values.items()}
        return {site: value[neurons[site]] for site, value in flat.items()}, jax.tree.map(lambda o: o[0], outputs)

    # One pass looks at all sites; what it finds of samples at which a site does not look is dropped.
    every = {site: jnp.resize(jnp.asarray(places[site]), (several,)) for site in neurons}
    kept, outputs = jax.lax.map(lambda both: one(*both), (inputs, every), batch_size=min(chunk, several))
    return {site: values[: len(places[site])] for site, values in kept.items()}, outputs


def watched_places(
    sites: Mapping[str, Site], rows: Mapping[str, int], samples: int, keys: Mapping[str, jax.Array]
) -> dict[str, Int[np.ndarray, " rows"]]:
    """By site, one random position for each of its first `rows` samples, drawn by the site's key.

    It is drawn of all samples, so that who looks at fewer of them looks in the same places.
    """
    found = {}
    for name, site in sites.items():
        drawn = jax.random.randint(keys[name], (samples,), 0, math.prod(site.shape[:-1]))
        found[name] = np.asarray(drawn)[: rows[name]]
    return found
