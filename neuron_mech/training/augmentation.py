"""Random flips and shifts of training images, on the device, as Keras's CIFAR-10 example of 2017 made them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from neuron_mech.training.datasets import Samples

SHIFT = 0.1
"""Largest shift, as a share of the image's height and width."""


def augmented(samples: Samples, key: Array) -> Samples:
    """A batch whose images are flipped left to right with probability 1/2, and shifted down and right at random.

    A shift is uniform in [-SHIFT, SHIFT] of the image's size, rounded to whole pixels: images of 32 pixels are shifted
    by -3 to 3. New pixels repeat the edge.
    """
    batch, height, width = samples.images.shape[:3]
    flip, down, right = jax.random.split(key, 3)
    return samples.replace(
        images=moved(
            samples.images,
            jax.random.bernoulli(flip, shape=(batch,)),
            _shifts(down, batch, height),
            _shifts(right, batch, width),
        )
    )


def _shifts(key: Array, batch: int, size: int) -> Int[Array, " batch"]:
    return jnp.round(jax.random.uniform(key, (batch,), minval=-SHIFT * size, maxval=SHIFT * size)).astype(jnp.int32)


def moved(images: Array, flip: Bool[Array, " batch"], down: Int[Array, " batch"], right: Int[Array, " batch"]) -> Array:
    """Images (batch, height, width, channels), each flipped left to right or not, then shifted by its own pixels."""
    height, width = images.shape[1:3]

    def one(image: Array, flip: Array, down: Array, right: Array) -> Array:
        rows = jnp.clip(jnp.arange(height) - down, 0, height - 1)
        columns = jnp.clip(jnp.arange(width) - right, 0, width - 1)
        return image[rows][:, jnp.where(flip, width - 1 - columns, columns)]

    return jax.vmap(one)(images, flip, down, right)
