"""Activation functions for partitions, those they are compared with, and a network of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuron_mech.taps.neurons import ACTIVATIONS, Neurons
from neuron_mech.training.models.mlp import perceptron

MARGIN = 1.0
"""How far on its side a sample is half let go: mu, in units of the neuron's spread."""

Gate = Callable[[Array, Array, float], Array]
"""(upstream derivative g, u, beta) -> the factor in 0 to 1 that g is multiplied by."""


def partition_gate(g: Array, u: Array, beta: float) -> Array:
    """sigmoid((mu - c u) / beta) with c = -sign(g): near 0 for samples well on the side that they should be on.

    g times it is, for |g| and c held fixed, the derivative of |g| beta softplus((mu - c u) / beta): a logistic
    classifier of u with labels c and weights |g|.
    """
    return jax.nn.sigmoid((MARGIN + jnp.sign(g) * u) / beta)


def symmetric_gate(g: Array, u: Array, beta: float) -> Array:
    """sigmoid((mu - |u|) / beta): near 0 for samples far from the threshold, on either side."""
    return jax.nn.sigmoid((MARGIN - jnp.abs(u)) / beta)


def anti_gate(g: Array, u: Array, beta: float) -> Array:
    """The partition's with c turned round: near 0 for samples well on the side that they should *not* be on."""
    return jax.nn.sigmoid((MARGIN - jnp.sign(g) * u) / beta)


def clipped_gate(g: Array, u: Array, beta: float) -> Array:
    """1 where |u| <= 1, else 0: the usual straight-through estimator of a sign (Hubara et al., 2016)."""
    return (jnp.abs(u) <= 1).astype(u.dtype)


def gated(forward: Callable[[Array], Array], gate: Gate, beta: float) -> Callable[[Array], Array]:
    """An activation function of these values whose backward pass is g times the gate, whatever its slope."""

    @jax.custom_vjp
    def function(u: Array) -> Array:
        return forward(u)

    function.defvjp(lambda u: (forward(u), u), lambda u, g: (g * gate(g, u, beta),))
    return function


def two_sided(u: Array) -> Array:
    """1 where u >= 0, else -1."""
    return jnp.where(u >= 0, 1.0, -1.0).astype(u.dtype)


GATES: dict[str, Gate] = {
    "sign, straight-through": clipped_gate,
    "partition": partition_gate,
    "partition, tanh": partition_gate,
    "symmetric gate": symmetric_gate,
    "anti gate": anti_gate,
}
USUAL: dict[str, Callable[[Array], Array]] = {
    "relu": ACTIVATIONS["relu"],
    "leaky relu": partial(nn.leaky_relu, negative_slope=0.01),
    "gelu": nn.gelu,
    "sigmoid": ACTIVATIONS["sigmoid"],
}


@dataclass(frozen=True)
class Arm:
    """One activation function, and whether its pre-activations are normalised by a percentile of the batch."""

    function: str
    normalised: bool
    beta: float = 0.5
    rank: float = 50.0

    @property
    def name(self) -> str:
        """How figures call it."""
        extra = "" if self.beta == 0.5 else f", beta {self.beta:g}"
        extra += "" if self.rank == 50 else f", rank {self.rank:g}"
        return f"{self.function}{extra}{' + median' if self.normalised else ''}"


ARMS = (
    *(Arm(function, normalised) for function in (*USUAL, *GATES) for normalised in (False, True)),
    Arm("partition", True, beta=0.25),
    Arm("partition", True, beta=1.0),
    Arm("partition", True, rank=80.0),
)


class PercentileNorm(nn.Module):
    """u = (z - theta) / s: theta the batch's percentile, s = (q84 - q16) / 2 + 1e-3, both constants to the derivative.

    In evaluation, and there only, by moving averages of both over training, which keep 0.99 of themselves a step (less
    at the beginning, so that the first batches do not weigh most).
    """

    rank: float

    @nn.compact
    def __call__(self, z: Float[Array, "batch neurons"], train: bool) -> Float[Array, "batch neurons"]:
        """The normalised values."""
        shape = (z.shape[-1],)
        theta = self.variable("batch_stats", "theta", jnp.zeros, shape)
        scale = self.variable("batch_stats", "scale", jnp.ones, shape)
        count = self.variable("batch_stats", "count", jnp.zeros, ())
        if not train:
            return (z - theta.value[None]) / scale.value[None]
        low, at, high = jnp.percentile(jax.lax.stop_gradient(z), jnp.array([16.0, self.rank, 84.0]), axis=0)
        spread = (high - low) / 2 + 1e-3
        if not self.is_initializing():
            keep = jnp.minimum(0.99, count.value / (count.value + 1))
            theta.value = keep * theta.value + (1 - keep) * at
            scale.value = keep * scale.value + (1 - keep) * spread
            count.value = count.value + 1
        return (z - at[None]) / spread[None]


class Temperature(nn.Module):
    """tanh(u / tau), tau falling from 1 to 0.1 by the same factor each of `steps` training steps."""

    steps: int

    @nn.compact
    def __call__(self, train: bool) -> Float[Array, ""]:
        """Tau."""
        tau = self.variable("batch_stats", "tau", jnp.ones, ())
        if train and not self.is_initializing():
            tau.value = jnp.maximum(0.1, tau.value * 0.1 ** (1 / self.steps))
        return tau.value


class Network(nn.Module):
    """[Dense - percentile norm, for some arms - activation] x depth - Dense; sites `dense1`, `dense2` ..."""

    arm: Arm
    depth: int
    neurons: int
    steps: int
    """Of training: the last of them has the lowest temperature."""
    classes: int = 10

    @nn.compact
    def __call__(self, images: Float[Array, "batch ..."], train: bool = False) -> Float[Array, "batch classes"]:
        """Logits. With `train`, `batch_stats` must be mutable where there are any."""

        def layer(i: int, x: Array, z: Array) -> Array:
            if self.arm.normalised:
                z = PercentileNorm(self.arm.rank, name=f"norm{i}")(z, train)
            return Neurons(self._function(train, i), name=f"dense{i}")(z)

        return perceptron(images, self.depth, self.neurons, self.classes, layer)

    def _function(self, train: bool, layer: int) -> Callable[[Array], Array]:
        if self.arm.function in USUAL:
            return USUAL[self.arm.function]
        gate = GATES[self.arm.function]
        if self.arm.function != "partition, tanh":
            return gated(two_sided, gate, self.arm.beta)
        tau = Temperature(self.steps, name=f"temperature{layer}")(train)
        return lambda u: _soft(u, tau, self.arm.beta)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _soft(u: Array, tau: Array, beta: float) -> Array:
    """tanh(u / tau) with the partition's backward pass; tau is no parameter."""
    return jnp.tanh(u / tau)


_soft.defvjp(
    lambda u, tau, beta: (jnp.tanh(u / tau), (u, tau)),
    lambda beta, kept, g: (g * partition_gate(g, kept[0], beta), jnp.zeros_like(kept[1])),
)
