"""Random flips and shifts, against images moved by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_mech.training.augmentation import augmented, moved
from neuron_mech.training.datasets import Samples


def by_hand(image: np.ndarray, flip: bool, down: int, right: int) -> np.ndarray:
    """One pixel at a time: where it comes from, with the nearest one where that lies outside."""
    height, width, _ = image.shape
    image = image[:, ::-1] if flip else image
    new = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            new[row, column] = image[min(max(row - down, 0), height - 1), min(max(column - right, 0), width - 1)]
    return new


def batch(count: int, height: int, width: int, seed: int = 0) -> Samples:
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return Samples(jnp.asarray(images), jnp.arange(count, dtype=jnp.int32), 255)


@given(st.booleans(), st.integers(-7, 7), st.integers(-7, 7), st.sampled_from([(6, 5), (1, 4), (5, 5)]))
@settings(max_examples=40, deadline=None)
def test_an_image_is_flipped_and_shifted_and_its_edges_repeated(flip, down, right, shape):
    images = batch(2, *shape).images
    found = moved(images, jnp.asarray([flip, False]), jnp.asarray([down, 0]), jnp.asarray([right, 0]))
    np.testing.assert_array_equal(found[0], by_hand(np.asarray(images[0]), flip, down, right))
    np.testing.assert_array_equal(found[1], images[1])
    assert found.dtype == jnp.uint8


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_every_image_is_one_of_the_moves_of_at_most_a_tenth(seed):
    samples = batch(8, 32, 20, seed)
    found = augmented(samples, jax.random.key(seed))
    np.testing.assert_array_equal(found.labels, samples.labels)
    for before, after in zip(np.asarray(samples.images), np.asarray(found.images), strict=True):
        moves = (by_hand(before, f, d, r) for f in (False, True) for d in range(-3, 4) for r in range(-2, 3))
        assert any((move == after).all() for move in moves)


def test_moves_are_a_function_of_the_key_and_all_occur_in_proportion():
    row, column = np.indices((32, 32))
    picture = np.stack([row, column, np.zeros_like(row)], -1).astype(np.uint8)
    samples = Samples(jnp.asarray(np.stack([picture] * 4000)), jnp.zeros(4000, jnp.int32), 255)
    found = np.asarray(augmented(samples, jax.random.key(1)).images)
    np.testing.assert_array_equal(found, augmented(samples, jax.random.key(1)).images)
    assert (found != np.asarray(augmented(samples, jax.random.key(2)).images)).any()
    # The picture's pixels say where they come from.
    flip = found[:, 16, 16, 1] > found[:, 16, 17, 1]
    down = 16 - found[:, 16, 16, 0].astype(int)
    right = np.where(flip, found[:, 16, 16, 1].astype(int) - 15, 16 - found[:, 16, 16, 1].astype(int))
    assert flip.mean() == pytest.approx(0.5, abs=0.03)
    for shift in (down, right):
        assert set(shift) == set(range(-3, 4))
        # Uniform in [-3.2, 3.2], rounded: the outermost have 0.7 of a pixel, the others one.
        np.testing.assert_allclose(np.bincount(shift + 3) / 4000, np.array([0.7, 1, 1, 1, 1, 1, 0.7]) / 6.4, atol=0.025)
    assert abs(np.corrcoef(np.stack([flip, down, right]))[np.triu_indices(3, 1)]).max() < 0.06
