"""Mutual information, in bits, of the label with a neuron's value and with one bit of it.

Values are first sorted into bins of equal occupancy, so that only their order matters. Mutual information is the
plug-in estimate with Miller and Madow's correction of its bias: Miller (1955), "Note on the bias of information
estimates".
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neuron_mech.codes.percentiles import percentiles

BINS = 100
"""Number of bins of a neuron's values: one for each percentile."""

CELLS = 20_000_000
"""Largest number of cells of the contingency tables in memory."""


def label_counts(
    values: Float[Array, "samples neurons"], labels: Int[Array, " samples"], classes: int
) -> Int[Array, "neurons bins classes"]:
    """Number of samples by neuron, bin (one of BINS) and label. Equal values share a bin, so bins can be empty."""
    edges = percentiles(values, np.linspace(0, 100, BINS + 1)[1:-1])
    return _count(values, labels, jnp.asarray(edges), classes)


@partial(jax.jit, static_argnames="classes")
def _count(values: jax.Array, labels: jax.Array, edges: jax.Array, classes: int) -> jax.Array:
    bins = len(edges) + 1

    def one_neuron(column: jax.Array, edges: jax.Array) -> jax.Array:
        cell = jnp.searchsorted(edges, column, side="left") * classes + labels
        return jnp.bincount(cell, length=bins * classes).reshape(bins, classes)

    # One neuron at a time: all at once would hold a bin index for every value.
    return jax.lax.map(lambda pair: one_neuron(*pair), (values.T, edges.T))


def by_neuron(
    values: Float[Array, "samples neurons"], labels: Int[Array, " samples"], classes: int
) -> tuple[Float[np.ndarray, " neurons"], Float[np.ndarray, "neurons thresholds"]]:
    """(`value_information`, `threshold_information`) of `label_counts`, for groups of neurons that fit in memory."""
    parts = max(1, values.shape[1] * BINS * classes // CELLS)
    found = []
    for part in np.array_split(np.arange(values.shape[1]), parts):
        counts = label_counts(values[:, part], labels, classes)
        found.append((np.asarray(value_information(counts)), np.asarray(threshold_information(counts))))
    whole, bits = zip(*found, strict=True)
    return np.concatenate(whole), np.concatenate(bits)


def value_information(counts: Int[Array, "neurons bins classes"]) -> Float[Array, " neurons"]:
    """Information of the value itself, in bits, with the finest bins that have ten samples a cell on average.

    With finer bins, empty cells would count as information, more than the bias correction takes back.
    """
    neurons, bins, classes = counts.shape
    samples = int(counts[0].sum())
    fine = max(k for k in range(1, bins + 1) if bins % k == 0 and (k <= 2 or k * classes * 10 <= samples))
    return mutual_information(counts.reshape(neurons, fine, bins // fine, classes).sum(2))


@partial(jax.jit, static_argnames="corrected")
def mutual_information(counts: Int[Array, "*tables rows columns"], corrected: bool = True) -> Float[Array, "*tables"]:
    """Mutual information of rows and columns of contingency tables, in bits.

    Plug-in: sum p log2(p / (p_row p_column)). Corrected for bias: minus (K - K_rows - K_columns + 1) / (2 N ln 2), with
    K the numbers of nonempty cells, rows and columns. The correction can take an estimate of zero slightly below it.
    """
    counts = counts.astype(jnp.float32)
    total = counts.sum((-2, -1))

    def entropy(table: jax.Array, axes: int) -> tuple[jax.Array, jax.Array]:
        """(plug-in entropy in bits, nonempty cells) over the last `axes` axes."""
        over = tuple(range(-axes, 0))
        n = jnp.expand_dims(total, over)
        p = table / n
        terms = jnp.where(table > 0, -p * jnp.log2(jnp.where(table > 0, p, 1.0)), 0.0)
        return terms.sum(over), (table > 0).sum(over, dtype=jnp.float32)

    rows, k_rows = entropy(counts.sum(-1), 1)
    columns, k_columns = entropy(counts.sum(-2), 1)
    cells, k_cells = entropy(counts, 2)
    bits = rows + columns - cells
    if corrected:
        bias = (k_cells - k_rows - k_columns + 1) / (2 * total * jnp.log(2.0))
        bits = bits - bias
    return bits


@jax.jit
def threshold_information(counts: Int[Array, "neurons bins classes"]) -> Float[Array, "neurons thresholds"]:
    """Information, in bits, of the one-bit code cut after each bin but the last: thresholds at ranks 100/bins, ..."""
    below = jnp.cumsum(counts, axis=1)[:, :-1]
    above = counts.sum(1, keepdims=True) - below
    return mutual_information(jnp.stack([below, above], axis=2))
