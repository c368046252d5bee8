"""Training sets with planted patterns, or with wrong labels; which samples have them is drawn anew for every seed."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from neuron_mech.training.datasets import Samples

PATTERNS = ("turned", "tinted")
"""A quarter turn of the image; a background half as bright as the brightest pixel."""


class Planted(NamedTuple):
    """A seed's training set; what was done to it, by sample."""

    images: np.ndarray
    labels: Int[np.ndarray, " samples"]
    population: Int[np.ndarray, " samples"]
    """The number of its planted pattern, counted from 0; -1 for none. Pattern p has sizes[p % len(sizes)] samples."""
    wrong: Bool[np.ndarray, " samples"]


def with_patterns(samples: Samples, sizes: tuple[int, ...], classes: int, seed: int) -> Planted:
    """In each of 2 x len(sizes) classes, so many samples of one pattern; which class has which is drawn.

    A class with fewer samples gives all it has.
    """
    rng = np.random.default_rng((seed, 1))
    images, labels = np.array(samples.images), np.array(samples.labels)
    population = np.full(len(labels), -1)
    order = rng.permutation(classes)
    for number in range(2 * len(sizes)):
        ids = rng.permutation(np.flatnonzero(labels == order[number]))[: sizes[number % len(sizes)]]
        population[ids] = number
        if number < len(sizes):
            images[ids] = np.rot90(images[ids], axes=(1, 2))
        else:
            images[ids] = np.maximum(images[ids], samples.largest // 2)
    return Planted(images, labels, population, np.zeros(len(labels), bool))


def with_wrong_labels(samples: Samples, share: float, asymmetric: bool, classes: int, seed: int) -> Planted:
    """So large a share of the samples has another label: any other with the same probability, or the next class's."""
    rng = np.random.default_rng((seed, 2))
    labels = np.array(samples.labels)
    ids = rng.permutation(len(labels))[: round(share * len(labels))]
    steps = np.ones(len(ids), labels.dtype) if asymmetric else rng.integers(1, classes, len(ids)).astype(labels.dtype)
    labels[ids] = (labels[ids] + steps) % classes
    wrong = np.zeros(len(labels), bool)
    wrong[ids] = True
    return Planted(np.array(samples.images), labels, np.full(len(labels), -1), wrong)
