"""A multilayer perceptron whose parts can be changed one at a time."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuron_mech.taps.neurons import ACTIVATIONS, Neurons
from neuron_mech.training.models.mlp import perceptron

Normalisation = Literal["none", "batch", "running"]


class Layers(nn.Module):
    """[Dense - activation - normalisation - dropout] x depth - Dense; sites `dense1`, `dense2` ...

    With `residual`, what a layer receives is added to what it gives, from the second layer on. Kernels are
    Glorot-uniform and biases zero. `normalisation` is by the batch's own statistics in training (batch; its running
    averages in evaluation), or by the running averages in training too (running), so that samples do not mix.
    """

    activation: str = "relu"
    depth: int = 8
    neurons: int = 128
    dropout: float = 0.1
    normalisation: Normalisation = "none"
    residual: bool = False
    classes: int = 10

    @nn.compact
    def __call__(self, images: Float[Array, "batch ..."], train: bool = False) -> Float[Array, "batch classes"]:
        """Logits. With `train`, dropout is on and needs `rngs={"dropout": key}`, and `batch_stats` must be mutable."""

        def layer(i: int, x: Array, z: Array) -> Array:
            y = Neurons(ACTIVATIONS[self.activation], name=f"dense{i}")(z)
            if self.normalisation == "batch":
                y = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-3, name=f"norm{i}")(y)
            if self.normalisation == "running":
                y = RunningNorm(name=f"norm{i}")(y, train)
            y = nn.Dropout(self.dropout, deterministic=not train)(y)
            return x + y if self.residual and i > 1 else y

        return perceptron(images, self.depth, self.neurons, self.classes, layer)


class RunningNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-3) by running averages of both, in training and in evaluation.

    They are constants to the derivative, so each sample's is its own. With `train` they move a tenth of the way to the
    batch's first.
    """

    @nn.compact
    def __call__(self, values: Float[Array, "batch neurons"], train: bool) -> Float[Array, "batch neurons"]:
        """The values, normalised, scaled and shifted."""
        shape = (values.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        variance = self.variable("batch_stats", "variance", jnp.ones, shape)
        scale = self.param("scale", nn.initializers.ones_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        if train and not self.is_initializing():
            seen = jax.lax.stop_gradient(values)
            mean.value = 0.9 * mean.value + 0.1 * seen.mean(0)
            variance.value = 0.9 * variance.value + 0.1 * seen.var(0)
        return (values - mean.value[None]) * jax.lax.rsqrt(variance.value + 1e-3)[None] * scale[None] + bias[None]
