"""How far each sample is on the side of each neuron's range where its derivative wants it.

The side is c = -sign(g), with g the derivative of the sample's loss with respect to the activation: up where g is
negative. The place is u, the pre-activation as its distance from the neuron's median in units of its spread.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

OfNeurons = Float[Array, "samples neurons"]

CLIP = 3.0
"""Spreads beyond which a sample is no further on its side."""


def standardised(values: OfNeurons, reference: int | None = None) -> OfNeurons:
    """U = (z - median) / ((q84 - q16) / 2 + 1e-3), by each neuron's percentiles.

    Those are of the first `reference` samples, of all where it is None: sorting them is what takes time.
    """
    low, middle, high = jnp.percentile(values[:reference], jnp.array([16.0, 50.0, 84.0]), axis=0)
    return (values - middle[None]) / ((high - low) / 2 + 1e-3)[None]


def separation(places: OfNeurons, derivatives: Num[Array, "samples neurons"]) -> OfNeurons:
    """C clip(u, -3, 3): positive where a sample is on its side. 0 where the derivative is 0.

    Its mean over neurons is a sample's separation S_i.
    """
    return -jnp.sign(derivatives) * jnp.clip(places, -CLIP, CLIP)
