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
from flax import struct
from jaxtyping import Array, Float, Int

from neuron_mech import taps
from neuron_mech.codes.percentiles import LIMIT
from neuron_mech.errors import InputError
from neuron_mech.taps import Site
from neuron_mech.training.datasets import Samples, Stream, walk

Source = Callable[[jax.Array], dict[Any, jax.Array]]
"""A pytree too, so that what it holds is an argument of what is compiled, and not a constant in it."""


class Values(NamedTuple):
    """Pre-activations of each neuron, and the labels of the samples that they come from."""

    values: Float[np.ndarray, "values neurons"]
    labels: Int[np.ndarray, " values"]


class Network(struct.PyTreeNode):
    """The sites' pre-activations in evaluation mode, all of one forward pass."""

    variables: Mapping[str, Any]
    model: nn.Module = struct.field(pytree_node=False)
    names: tuple[str, ...] = struct.field(pytree_node=False)

    def __call__(self, inputs: jax.Array) -> dict[str, jax.Array]:
        """Pre-activations by site."""
        return taps.read(self.model, self.variables, inputs, self.names)[1]


def network(model: nn.Module, variables: Mapping[str, Any], sites: Mapping[str, Site]) -> Source:
    """`model` with `variables` as a source."""
    return Network(variables, model, tuple(sites))


class Projection(struct.PyTreeNode):
    """A Gaussian random projection of the input, at each site through weights of its own."""

    weights: dict[str, Float[Array, "pixels neurons"]]
    positions: tuple[tuple[str, tuple[int, ...]], ...] = struct.field(pytree_node=False)

    def __call__(self, inputs: jax.Array) -> dict[str, jax.Array]:
        """Pre-activations by site."""
        return {name: _project(inputs, self.weights[name], positions) for name, positions in self.positions}


def check_projection(image: tuple[int, int, int], sites: Mapping[str, Site]) -> None:
    """Raise InputError where images of this shape do not divide into a block for each position of every site."""
    for site in sites.values():
        rows, columns = site.shape[:-1] or (1, 1)
        if image[0] % rows or image[1] % columns:
            raise InputError(
                f"site {site.name!r} has {rows}x{columns} positions, which do not divide {image[0]}x{image[1]} pixels: "
                "name other record.sites, or leave projections out (reproduce: --no-windows; binarization: --sources "
                "trained untrained)"
            )


def projection(keys: Mapping[str, Array], image: tuple[int, int, int], sites: Mapping[str, Site]) -> Source:
    """A random projection of images of this shape to as many neurons as each site has, drawn with the site's key.

    Each position of a site sees its own block of the image, through the same weights; a site without positions sees
    all of it. Raises InputError where the blocks do not divide the image.
    """
    height, width, channels = image
    check_projection(image, sites)
    weights = {}
    for name, site in sites.items():
        rows, columns = site.shape[:-1] or (1, 1)
        pixels = (height // rows) * (width // columns) * channels
        weights[name] = jax.random.normal(keys[name], (pixels, site.shape[-1]))
    return Projection(weights, tuple((name, site.shape[:-1]) for name, site in sites.items()))


def _project(inputs: jax.Array, weights: jax.Array, positions: tuple[int, ...]) -> jax.Array:
    rows, columns = positions or (1, 1)
    _, height, width, channels = inputs.shape
    # Pixels centred, as a network's biases would have it.
    blocks = (inputs - 0.5).reshape(-1, rows, height // rows, columns, width // columns, channels)
    pixels = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(len(inputs), *positions, -1)
    return pixels @ weights


class Joined(struct.PyTreeNode):
    """Several sources as one, whose pre-activations go by (source, site)."""

    sources: dict[str, Any]

    def __call__(self, inputs: jax.Array) -> dict[tuple[str, str], jax.Array]:
        """Pre-activations by (source, site)."""
        return {(kind, site): z for kind, source in self.sources.items() for site, z in source(inputs).items()}


def joined(sources: Mapping[str, Source]) -> Source:
    """Several sources as one, whose pre-activations go by (source, site)."""
    return Joined(dict(sources))


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
    def read(source: Source, part: Samples, start: Array) -> dict[Any, jax.Array]:
        found = source(part.inputs)
        return {name: _some(found[name], most, jax.random.fold_in(key, start)) for name, key in places.items()}

    rows: dict[Any, np.ndarray] = {}
    labels, start = [], 0
    for part in walk(samples.rows(ids), chunk, "reading pre-activations"):
        for name, values in read(source, part, jnp.asarray(start, jnp.uint32)).items():
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
