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
    """The network as a source: the pre-activations of all `sites`, in evaluation mode, from one forward pass.

    `sites` are names of the model's sites, such as a part of `taps.sites`: with parameters from before training it is
    the control of untrained neurons. Called with inputs (batch first) it gives {site: (batch, positions ..., neurons)}.
    Raises SiteError, when it is called, for a site that the model does not have.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> from neuron_mech.codes import sources
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x = jnp.ones((5, 2))
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> source = sources.network(model, variables, neuron_mech.sites(model, variables, x))
    >>> {site: values.shape for site, values in source(x).items()}
    {'layers_0': (5, 4), 'layers_2': (5, 3)}
    """
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
    """A random projection of images to as many neurons as each site has: a control of neurons that learned nothing.

    At each position of a site, the same weights apply to the position's own block of the image; at a site without
    positions, to the whole image. A value is the sum of weight x (pixel - 1/2), as there are no biases.

    Arguments:
        keys: by site, the random key of its weights, which are normal with variance 1.
        image: (height, width, channels) of the images.
        sites: of which only shapes count: neurons last, before them rows and columns, or no positions.

    Returns:
        A source: called with images in [0, 1], (batch, height, width, channels), it gives {site: (batch, rows, columns,
            neurons)}, or (batch, neurons) for a site without positions.

    Raises InputError where the image cannot be divided into such blocks. The weights take 4 bytes x the pixels of a
    block x the neurons of each site.

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech.codes import sources
    >>> from neuron_mech.taps import Site
    >>> sites = {"map": Site("map", "Conv", (2, 2, 3), jnp.float32)}
    >>> source = sources.projection({"map": jax.random.key(0)}, (8, 8, 1), sites)
    >>> source(jnp.ones((9, 8, 8, 1)))["map"].shape
    (9, 2, 2, 3)
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
    """At most `limit` values of each neuron at every site in `places`: what codes and windows are made of.

    Arguments:
        source: such as a `network`.
        samples: read once; one at least.
        pick: a random key. Where there are more than `limit` samples, `limit` of them are chosen with it, the same for
            all sites.
        places: {site: random key}. Of each sample as many positions are taken as the limit allows, chosen with it.
        limit: largest number of values of a neuron.
        chunk: samples in one forward pass.

    Returns:
        {site: `Values`}: `values` of shape (values, neurons), on the host, and `labels`, each value's sample's.

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech.codes import sources
    >>> from neuron_mech.training.datasets import Samples
    >>> samples = Samples(jnp.ones((9, 2, 2, 1), jnp.uint8), jnp.arange(9), largest=1)
    >>> pixels, key = jax.tree_util.Partial(lambda inputs: {"pixels": inputs}), jax.random.key(0)
    >>> sources.chosen_values(pixels, samples, key, {"pixels": key}, limit=18)["pixels"].labels.tolist()
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]
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
