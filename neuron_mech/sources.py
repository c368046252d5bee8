"""Where the pre-activations at a site come from: a network, trained or not, or a random projection of its input.

A source is a pure function of images in [0, 1], (batch, height, width, channels), to pre-activations of the site's
shape, (batch, positions ..., neurons). Everything that codes pre-activations works on any of them, so that a claim
about trained neurons can be held against neurons that never learned anything.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neuron_mech import taps
from neuron_mech.datasets import Samples
from neuron_mech.errors import InputError
from neuron_mech.percentiles import LIMIT
from neuron_mech.taps import Site

Source = Callable[[jax.Array], jax.Array]


def network(model: nn.Module, variables: Mapping[str, Any], site: Site) -> Source:
    """The site's pre-activations in evaluation mode."""
    return lambda inputs: taps.read(model, variables, inputs, (site.name,))[1][site.name]


def projection(key: Array, image: tuple[int, int, int], site: Site) -> Source:
    """A Gaussian random projection of the input to as many neurons as the site has.

    Each position of the site sees its own block of the image, through the same weights; a site without positions sees
    all of it. Raises InputError where the blocks do not divide the image.
    """
    height, width, channels = image
    rows, columns = site.shape[:-1] or (1, 1)
    if height % rows or width % columns:
        raise InputError(
            f"site {site.name!r} has {rows}x{columns} positions, which do not divide {height}x{width} pixels"
        )
    block = (height // rows, width // columns)
    weights = jax.random.normal(key, (block[0] * block[1] * channels, site.shape[-1]))

    def project(inputs: jax.Array) -> jax.Array:
        # Pixels centred, as a network's biases would have it.
        blocks = (inputs - 0.5).reshape(-1, rows, block[0], columns, block[1], channels)
        pixels = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(len(inputs), *site.shape[:-1], -1)
        return pixels @ weights

    return project


def chosen_values(
    source: Source, samples: Samples, key: Array, limit: int = LIMIT, chunk: int = 1000
) -> tuple[Float[np.ndarray, "values neurons"], Int[np.ndarray, " values"]]:
    """(at most `limit` values of each neuron, their samples' labels), positions counted as values, chosen at random.

    All samples where they are few enough, and as many random positions of each as the limit allows.
    """
    pick, place = jax.random.split(key)
    ids = np.arange(len(samples))
    if len(ids) > limit:
        ids = np.sort(np.asarray(jax.random.permutation(pick, len(ids)))[:limit])

    @jax.jit
    def read(part: Samples, key: Array) -> jax.Array:
        found = source(part.inputs)
        values = found.reshape(len(found), -1, found.shape[-1])
        positions = values.shape[1]
        take = min(positions, max(1, limit // len(ids)))
        if take == positions:
            return values
        which = jax.vmap(lambda k: jax.random.permutation(k, positions)[:take])(jax.random.split(key, len(found)))
        return jnp.take_along_axis(values, which[..., None], axis=1)

    parts = [
        np.asarray(read(samples.rows(ids[start : start + chunk]), jax.random.fold_in(place, start)))
        for start in range(0, len(ids), chunk)
    ]
    values = np.concatenate(parts)
    labels = np.repeat(np.asarray(samples.labels)[ids], values.shape[1])
    return values.reshape(-1, values.shape[-1]), labels
