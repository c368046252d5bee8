"""Sources of pre-activations: a network, trained or not, or a random projection of its input as a control.

A source is a pure function of images in [0, 1], (batch, height, width, channels), that gives pre-activations by site,
each of shape (batch, positions ..., neurons). Quantization and binarization take any source, so that trained neurons
can be compared with neurons that learned nothing. One pass over the images serves all sites, and all joined sources.
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
"""A source is a pytree too: its arrays are arguments of a compiled function, not constants in it."""


class Values(NamedTuple):
    """Pre-activations of each neuron, and the labels of the samples that they come from."""

    values: Float[np.ndarray, "values neurons"]
    labels: Int[np.ndarray, " values"]


class Network(struct.PyTreeNode):
    """The sites' pre-activations in a network, in evaluation mode, all from one forward pass."""

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
    """Gaussian random projections of the input, with other weights for each site."""

    weights: dict[str, Float[Array, "pixels neurons"]]
    positions: tuple[tuple[str, tuple[int, ...]], ...] = struct.field(pytree_node=False)

    def __call__(self, inputs: jax.Array) -> dict[str, jax.Array]:
        """Pre-activations by site."""
        return {name: _project(inputs, self.weights[name], positions) for name, positions in self.positions}


def check_projection(image: tuple[int, int, int], sites: Mapping[str, Site]) -> None:
    """Raise InputError where images of this shape cannot be divided into a block for each position of every site."""
    for site in sites.values():
        rows, columns = site.shape[:-1] or (1, 1)
        if image[0] % rows or image[1] % columns:
            raise InputError(
                f"site {site.name!r} has {rows}x{columns} positions, which do not divide {image[0]}x{image[1]} pixels: "
                "name other record.sites, or leave projections out (reproduce: --no-windows; binarization: --sources "
                "trained untrained)"
            )


def projection(keys: Mapping[str, Array], image: tuple[int, int, int], sites: Mapping[str, Site]) -> Source:
    """A random projection of images to as many neurons as each site has, with weights drawn by the site's key.

    At each position of a site, the same weights apply to the position's own block of the image; at a site without
    positions, to the whole image. Raises InputError where the image cannot be divided into such blocks.
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
    # Pixels are centred, since there are no biases.
    blocks = (inputs - 0.5).reshape(-1, rows, height // rows, columns, width // columns, channels)
    pixels = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(len(inputs), *positions, -1)
    return pixels @ weights


class Joined(struct.PyTreeNode):
    """Several sources as one, whose pre-activations are by (source, site)."""

    sources: dict[str, Any]

    def __call__(self, inputs: jax.Array) -> dict[tuple[str, str], jax.Array]:
        """Pre-activations by (source, site)."""
        return {(kind, site): z for kind, source in self.sources.items() for site, z in source(inputs).items()}


def chosen_values(
    source: Source,
    samples: Samples | Stream,
    pick: Array,
    places: Mapping[Hashable, Array],
    limit: int = LIMIT,
    chunk: int = 1000,
) -> dict[Any, Values]:
    """At most `limit` values of each neuron at every site in `places`; positions count as values.

    If there are more than `limit` samples, `limit` of them are chosen with the key `pick`, the same for all sites. Of
    each sample as many positions are taken as the limit allows, chosen at random with the site's key in `places`. Reads
    the samples once, `chunk` at a time.
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
    """At most `most` random positions of each sample: (samples, positions, neurons)."""
    values = found.reshape(len(found), -1, found.shape[-1])
    positions = values.shape[1]
    if positions <= most:
        return values
    which = jax.vmap(lambda k: jax.random.permutation(k, positions)[:most])(jax.random.split(key, len(found)))
    return jnp.take_along_axis(values, which[..., None], axis=1)
