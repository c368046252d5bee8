"""What predicts a neuron's categories: the class of a sample above all, and how much of a partition it explains.

Categories are those of `partitions`: arrays of +1 (low), -1 (high) and 0 (none).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from neuron_mech.codes import information
from neuron_mech.recording.partitions import HIGH, LOW, Category, OfPairs

Counts = Int[Array, "neurons 2 classes"]
"""Pairs by neuron, category (low, high) and class."""


def class_counts(category: OfPairs, labels: Int[Array | np.ndarray, " samples"], classes: int) -> Counts:
    """How many pairs of each neuron are low and high, by class: what the other measures here start from.

    Pure; jit it, with `classes` static.

    Arguments:
        category: +1 low, -1 high, 0 for pairs that are left out; of shape (samples, positions ..., neurons). Each
            position of a sample is a pair.
        labels: the samples' classes, integers from 0 to classes - 1. A sample with any other is left out.
        classes: how many there are.

    Returns int32 of shape (neurons, 2, classes): low at index 0 of the second axis, high at 1.

    >>> import numpy as np
    >>> from neuron_mech.recording import predictors
    >>> category, labels = np.array([[1], [1], [-1], [0]]), np.array([0, 0, 1, 1])
    >>> predictors.class_counts(category, labels, classes=2).tolist()
    [[[2, 0], [0, 1]]]
    """
    neurons = category.shape[-1]
    flat = category.reshape(len(category), -1, neurons)
    by_sample = jnp.stack([(flat == kind).sum(1, dtype=jnp.int32) for kind in (LOW, HIGH)])
    member = jax.nn.one_hot(labels, classes, dtype=jnp.int32)
    return jnp.einsum("ksn,sc->nkc", by_sample, member)


def low_share(counts: Counts) -> Float[Array, "neurons classes"]:
    """Share of each class's pairs that are in the neuron's low category (figure 8); NaN for a class without pairs."""
    return counts[:, 0] / counts.sum(1)


def explained_by_class(counts: Counts) -> Float[Array, " neurons"]:
    """Share of a neuron's partition that the class explains: I(category; class) / H(category).

    Theil's uncertainty coefficient: 1 where every class is wholly in one category, 0 where all are split alike. The
    information is corrected for its bias (`codes.information`), which can take the share of few pairs below 0 or above
    1.

    Arguments:
        counts: pairs by neuron, category and class, as `class_counts` makes them.

    Returns float32 of shape (neurons,); NaN for a neuron with pairs in one category only, or in none.

    >>> import jax.numpy as jnp
    >>> from neuron_mech.recording import predictors
    >>> follows, ignores = [[50, 0], [0, 50]], [[25, 25], [25, 25]]  # low and high, by class
    >>> [round(float(share), 2) for share in predictors.explained_by_class(jnp.array([follows, ignores]))]
    [1.01, -0.01]
    """
    p = counts.sum(2) / counts.sum((1, 2))[:, None]
    entropy = -jnp.where(p > 0, p * jnp.log2(jnp.where(p > 0, p, 1.0)), 0.0).sum(1)
    return information.mutual_information(counts) / jnp.where(entropy > 0, entropy, jnp.nan)


def of_most_of_the_class(category: Category, labels: Int[np.ndarray, " samples"]) -> Category:
    """Each sample in the category of most of its class, by neuron; 0 where as many are in either."""
    by_class = np.stack([np.sign(category[labels == c].sum(0)) for c in range(int(labels.max(initial=0)) + 1)])
    return by_class[labels].astype(np.int8)


def majority_by_class(counts: Counts) -> Float[Array, " neurons"]:
    """Share of a neuron's pairs that are in the category in which most of their class are."""
    return counts.max(1).sum(1) / counts.sum((1, 2))


def majority(counts: Counts) -> Float[Array, " neurons"]:
    """Share of a neuron's pairs in its larger category: the baseline of any prediction."""
    return counts.sum(2).max(1) / counts.sum((1, 2))


def class_signs(
    weights: Float[Array | np.ndarray, "classes *positions neurons"],
) -> Float[Array, "classes *positions neurons"]:
    """Of each class and neuron, sign(mean of its weights to the other classes' logits - that to the class's own).

    Positive: what raises the neuron raises the wrong logits, on average, so the class's samples would be low.
    """
    several = len(weights)
    others = (jnp.sum(weights, axis=0, keepdims=True) - weights) / (several - 1)
    return jnp.sign(others - weights)


def agreement(
    predicted: Num[Array | np.ndarray, "samples *positions neurons"], category: OfPairs
) -> Float[Array, " neurons"]:
    """Share of a neuron's pairs whose category is the sign of `predicted`.

    Pairs without a category, and those for which 0 is predicted, are left out (before max pooling, three quarters of
    the derivatives of a recording are 0). NaN for a neuron without other pairs.
    """
    neurons = category.shape[-1]
    flat = category.reshape(-1, neurons)
    sign = jnp.sign(predicted).astype(flat.dtype).reshape(-1, neurons)
    counted = (flat != 0) & (sign != 0)
    return ((sign == flat) & counted).sum(0) / counted.sum(0)
