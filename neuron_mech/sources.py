"""Where the pre-activations at sites come from: a network, trained or not, or a random projection of its input.

A source is a pure function of images in [0, 1], (batch, height, width, channels), to pre-activations by site, each of
the site's shape, (batch, positions ..., neurons). Everything that codes pre-activations works on any of them, so that a
claim about trained neurons can be held against neurons that never learned anything. One pass over the images serves all
sites, and all sources that are joined.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neuron_mech import taps
from neuron_mech.datasets import Samples, Stream, walk
from neuron_mech.errors import InputError
from neuron_mech.percentiles import LIMIT
from neuron_mech.taps import Site

Source = Callable[[jax.Array], dict[Any, jax.Array]]


class Values(NamedTuple):
    """Pre-activations of each neuron, and the labels of the samples that they come from."""

    values: Float[np.ndarray, "values neurons"]
    labels: Int[np.ndarray, " values"]


def network(model: nn.Module, variables: Mapping[str, Any], sites: Mapping[str, Site]) -> Source:
    """The sites' pre-activations in evaluation mode, all of one forward pass."""
    names = tuple(sites)
    return lambda inputs: taps.read(model, variables, inputs, names)[1]


def projection(keys: Mapping[str, Array], image: tuple[int, int, int], sites: Mapping[str, Site]) -> Source:
    """A Gaussian random projection of the input to as many neurons as a site has, through weights drawn with its key.

    Each position of a site sees its own block of the image, through the same weights; a site without positions sees
    all of it. Raises InputError where the blocks do not divide the image.
    """
    each = {name: _project(keys[name], image, site) for name, site in sites.items()}
    return lambda inputs: {name: project(inputs) for name, project in each.items()}


def _project(key: Array, image: tuple[int, int, int], site: Site) -> Callable[[jax.Array], jax.Array]:
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


def joined(sources: Mapping[str, Source]) -> Source:
    """Several sources as one, whose pre-activations go by (source, site)."""
    return lambda inputs: {(kind, site): z for kind, source in sources.items() for site, z in source(inputs).items()}


def chosen_values(
    source: Source,
    samples: Samples | Stream,
    pick: Array,
    places: Mapping[Hashable, Array],
    limit: int = LIMIT,
    chunk: int = 1000,
) -> dict[Any, Values]:
    """At most `limit` values of each neuron at every site that `places` has a key for, positions counted as values.

    All samples where they are few enough, or as many, the same for all sites, chosen with the key `pick`; and as many
    random positions of each as the limit allows, chosen with the site's own key. One pass over the samples, in which
    `chunk` of them are looked at at once.
    """
    ids = np.arange(len(samples))
    if len(ids) > limit:
        ids = np.sort(np.asarray(jax.random.permutation(pick, len(ids)))[:limit])
    most = max(1, limit // len(ids))

    @jax.jit
    def read(part: Samples, start: Array) -> dict[Any, jax.Array]:
        found = source(part.inputs)
        return {name: _some(found[name], most, jax.random.fold_in(key, start)) for name, key in places.items()}

    rows: dict[Any, np.ndarray] = {}
    labels, start = [], 0
    for part in walk(samples.rows(ids), chunk, "reading pre-activations"):
        for name, values in read(part, jnp.asarray(start, jnp.uint32)).items():
            if name not in rows:
                rows[name] = np.empty((len(ids), *values.shape[1:]), values.dtype)
            rows[name][start : start + len(part)] = values
        labels.append(np.asarray(part.labels))
        start += len(part)
    label = np.concatenate(labels)
    return {
        name: Values(values[:start].reshape(-1, values.shape[-1]), np.repeat(label, values.shape[1]))
        for name, values in rows.items()
    }


def _some(found: jax.Array, most: int, key: Array) -> jax.Array:
    """At most so many positions of each sample, chosen at random: (samples, positions, neurons)."""
    values = found.reshape(len(found), -1, found.shape[-1])
    positions = values.shape[1]
    if positions <= most:
        return values
    which = jax.vmap(lambda k: jax.random.permutation(k, positions)[:most])(jax.random.split(key, len(found)))
    return jnp.take_along_axis(values, which[..., None], axis=1)
