"""Linear probes of a site's binarized neurons: how well a linear classifier tells the label from them.

A feature is the number of positions at which a neuron's value is in the window, kept as a small integer. One forward
pass counts all sites, windows and sources. A probe is multinomial logistic regression on these counts, standardised.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from neuron_mech import store
from neuron_mech.codes import evaluation
from neuron_mech.codes.sources import Source
from neuron_mech.codes.windowing import Window
from neuron_mech.lazily import optimize
from neuron_mech.store.files import write
from neuron_mech.taps import Site
from neuron_mech.taps.objectives import check_labels
from neuron_mech.training.datasets import Samples, Stream, walk

TRAINING_IMAGES = 100_000
"""Largest number of images, chosen at random, that a probe is trained on."""

TOLERANCE = 1e-4
"""A probe has converged where no component of its objective's gradient exceeds this: scikit-learn's criterion too."""

ROWS = 4096
"""Samples whose features are converted to floats at a time."""


def count_type(site: Site) -> np.dtype:
    """The smallest unsigned integer type that holds the number of the site's positions."""
    return np.dtype(np.min_scalar_type(math.prod(site.shape[:-1])))


def nbytes(sites: Mapping[Hashable, Site], windows: int, samples: int) -> int:
    """Bytes of the counts of `windows` windows and `samples` samples at all `sites`."""
    return sum(windows * samples * site.shape[-1] * count_type(site).itemsize for site in sites.values())


def count(
    source: Source,
    windows: Mapping[Any, Window],
    sites: Mapping[Any, Site],
    samples: Samples | Stream,
    files: Mapping[Any, Path],
    labels: Path,
    chunk: int = 1000,
) -> None:
    """Write the number of each sample's positions that each window lets through, by neuron: a probe's features.

    One pass over the samples serves all windows and sites. Files are on disk, since there may be more than memory
    holds: `nbytes` says how many bytes beforehand.

    Arguments:
        source: a function, and pytree, of inputs that gives pre-activations by name (`sources`).
        windows: by these names, each with a leading axis (`windowing.at_centers`).
        sites: their shapes, by these names. Without positions a count is 0 or 1.
        samples: of which corrupt images of a stream may be left out: rows behind the last stay 0.
        files: by these names, the .npy file of `count_type` and shape (windows, samples, neurons) to be written.
        labels: the .npy file for the labels of the samples that were read.
        chunk: samples in one forward pass.

    The counts are written whole or not at all, and the labels after them. Raises InputError where the disk has no room
    for the counts, RunError where a file cannot be written.

    >>> import jax, jax.numpy as jnp, numpy as np, pathlib, tempfile
    >>> from neuron_mech.codes import linear_probes, windowing
    >>> from neuron_mech.taps import Site
    >>> from neuron_mech.training.datasets import Samples
    >>> image = Samples(jnp.array([[[[0], [200]], [[255], [255]]]], jnp.uint8), jnp.array([7]), largest=255)
    >>> bright = windowing.Window(lower=jnp.array([[0.5]]), upper=jnp.array([[jnp.inf]]))
    >>> source = jax.tree_util.Partial(lambda inputs: {"pixels": inputs})
    >>> sites = {"pixels": Site("pixels", "image", (2, 2, 1), jnp.float32)}
    >>> with tempfile.TemporaryDirectory() as name:
    ...     to, labels = pathlib.Path(name, "counts.npy"), pathlib.Path(name, "labels.npy")
    ...     linear_probes.count(source, {"pixels": bright}, sites, image, {"pixels": to}, labels)
    ...     np.load(to).tolist(), np.load(labels).tolist()
    ([[[3]]], [7])
    """

    @jax.jit
    def look(source: Source, windows: Mapping[Any, Window], part: Samples) -> dict[Any, jax.Array]:
        values = source(part.inputs)

        def inside(name: Any, window: Window) -> jax.Array:
            within = window(values[name])
            positions = within.reshape(len(within), -1, within.shape[-1])
            return positions.sum(1, dtype=jnp.int32).astype(count_type(sites[name]))

        # One window after another: all together would need ten copies of the largest values.
        return {name: jax.lax.map(partial(inside, name), each) for name, each in windows.items()}

    many = {name: len(each.lower) for name, each in windows.items()}
    shapes = {name: (many[name], len(samples), sites[name].shape[-1]) for name in windows}
    with store.arrays({files[n]: (shapes[n], count_type(sites[n])) for n in windows}) as written:
        seen: list[np.ndarray] = []
        start = 0
        for part in walk(samples, chunk, "binarizing"):
            for name, counts in look(source, windows, part).items():
                written[files[name]][:, start : start + len(part)] = counts
            seen.append(np.asarray(part.labels))
            start += len(part)
    write(labels, lambda part: np.save(part, np.concatenate(seen)))


class Probe(NamedTuple):
    """Logits are `(counts - mean) * scale @ weights + bias`; `gradient` is the objective's largest where it stopped."""

    weights: Float[np.ndarray, "neurons classes"]
    bias: Float[np.ndarray, " classes"]
    mean: Float[np.ndarray, " neurons"]
    scale: Float[np.ndarray, " neurons"]
    gradient: float
    evaluations: int

    @property
    def converged(self) -> bool:
        """Whether the gradient is at most TOLERANCE."""
        return self.gradient <= TOLERANCE


def fit(
    counts: Shaped[np.ndarray, "samples neurons"],
    labels: Int[np.ndarray, " samples"],
    classes: int,
    penalty: float,
    evaluations: int = 1000,
) -> Probe:
    """The probe that minimises mean cross-entropy (nats) + penalty / 2 x the sum of squared weights (without bias).

    Features are standardised by their training mean and standard deviation. Minimised by scipy's L-BFGS from zeros; the
    gradient over all samples is summed in blocks of ROWS, always in the same order. In scikit-learn, C is
    1 / (penalty x samples).

    Arguments:
        counts: features of shape (samples, neurons), of any real type. A constant one becomes 0, and so do its weights.
        labels: class indices of shape (samples,), from 0 to classes - 1.
        classes: number of classes.
        penalty: 0 or more; at 0 there is no minimum where the classes can be told apart without error.
        evaluations: largest number of evaluations of the objective.

    Returns:
        A `Probe`; ask it whether it has `converged`, and `accuracy` how well it does.

    Raises InputError for labels that are no classes.

    >>> import numpy as np
    >>> from neuron_mech.codes import linear_probes
    >>> counts, labels = np.array([[0, 3], [1, 3], [4, 3], [5, 3]]), np.array([0, 0, 1, 1])
    >>> probe = linear_probes.fit(counts, labels, classes=2, penalty=0.01)
    >>> probe.converged, linear_probes.accuracy(probe, counts, labels), probe.weights[1].tolist()
    (True, 1.0, [0.0, 0.0])
    """
    samples, neurons = counts.shape
    check_labels(labels, classes, "labels")
    deviation = counts.std(axis=0, dtype=np.float64)
    mean = counts.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0).astype(np.float32)
    rows = min(ROWS, samples)
    padding = -samples % rows
    blocks = jnp.asarray(np.pad(counts, ((0, padding), (0, 0))).reshape(-1, rows, neurons))
    names = jnp.asarray(np.pad(labels.astype(np.int32), (0, padding), constant_values=-1).reshape(-1, rows))
    size = neurons * classes

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = flat[:size].reshape(neurons, classes), flat[size:]
        losses, (for_weights, for_bias) = _cross_entropy(
            jnp.asarray(weights, jnp.float32), jnp.asarray(bias, jnp.float32), blocks, names, mean, scale
        )
        value = np.asarray(losses, np.float64).sum() / samples + penalty / 2 * (weights**2).sum()
        slope = np.asarray(for_weights, np.float64) / samples + penalty * weights
        return float(value), np.concatenate([slope.ravel(), np.asarray(for_bias, np.float64) / samples])

    found = optimize.minimize(
        objective,
        np.zeros(size + classes),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": TOLERANCE, "ftol": 0, "maxfun": evaluations, "maxiter": evaluations},
    )
    weights, bias = found.x[:size].reshape(neurons, classes), found.x[size:]
    largest = float(np.abs(found.jac).max())
    return Probe(weights.astype(np.float32), bias.astype(np.float32), mean, scale, largest, int(found.nfev))


@jax.jit
def _cross_entropy(
    weights: Array, bias: Array, blocks: Array, labels: Array, mean: Array, scale: Array
) -> tuple[Array, tuple[Array, Array]]:
    """(each block's summed cross-entropy, its gradient over all); samples of label -1 are padding."""

    def loss(parameters: tuple[Array, Array], counts: Array, label: Array) -> Array:
        logits = _logits(*parameters, counts, mean, scale)
        own = jnp.take_along_axis(logits, jnp.maximum(label, 0)[:, None], axis=1)[:, 0]
        return jnp.where(label >= 0, jax.nn.logsumexp(logits, axis=1) - own, 0.0).sum()

    def step(total: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        value, slope = jax.value_and_grad(loss)((weights, bias), *block)
        return jax.tree.map(jnp.add, total, slope), value

    total, losses = jax.lax.scan(step, (jnp.zeros_like(weights), jnp.zeros_like(bias)), (blocks, labels))
    return losses, total


def _logits(weights: Array, bias: Array, counts: Array, mean: Array, scale: Array) -> Array:
    return ((counts.astype(jnp.float32) - mean[None]) * scale[None]) @ weights + bias[None]


@partial(jax.jit, static_argnames="top")
def _right(weights: Array, bias: Array, counts: Array, labels: Array, mean: Array, scale: Array, top: int) -> Array:
    return evaluation.right(_logits(weights, bias, counts, mean, scale), labels, top).sum()


def accuracy(
    probe: Probe, counts: Shaped[np.ndarray, "samples neurons"], labels: Int[np.ndarray, " samples"], top: int = 1
) -> float:
    """Share of samples, 0 to 1, whose label is among the probe's `top` largest logits.

    `counts` of shape (samples, neurons) are features as those that it was fitted to, and `labels` their class indices,
    one at least. Of equal logits the first counts as larger.

    >>> import numpy as np
    >>> from neuron_mech.codes import linear_probes
    >>> counts, labels = np.array([[0, 3], [1, 3], [4, 3], [5, 3]]), np.array([0, 0, 1, 1])
    >>> probe = linear_probes.fit(counts, labels, classes=2, penalty=0.01)
    >>> linear_probes.accuracy(probe, counts, np.array([0, 1, 1, 1]))
    0.75
    """
    hits = 0
    for start in range(0, len(labels), ROWS):
        part, names = (jnp.asarray(array[start : start + ROWS]) for array in (counts, labels))
        hits += int(_right(probe.weights, probe.bias, part, names, probe.mean, probe.scale, top))
    return hits / len(labels)
