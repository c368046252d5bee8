"""The multilayer perceptron of the paper's MNIST experiments (appendix A)."""

from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from neuron_mech.taps.neurons import ACTIVATIONS, Neurons


class MLP(nn.Module):
    """[Dense - activation - dropout] x depth - Dense; sites `dense1`, `dense2` ...

    Kernels are Glorot-uniform and biases zero, Keras's defaults of 2017. Images of any shape are made rows of pixels.

    >>> import jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> from neuron_mech.training.models import MLP
    >>> model, images = MLP(depth=3, neurons=8), jnp.ones((5, 4, 4, 1))
    >>> shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> [name for name in neuron_mech.sites(model, shapes, images) if name.startswith("dense")]
    ['dense1', 'dense2', 'dense3']
    """

    activation: str = "relu"
    """relu, sigmoid or linear, which is no function."""
    depth: int = 2
    """Hidden layers."""
    neurons: int = 512
    """Neurons of each hidden layer."""
    dropout: float = 0.5
    """Share of activations that are set to zero in training."""
    classes: int = 10
    """Number of logits."""

    @nn.compact
    def __call__(self, images: Float[Array, "batch ..."], train: bool = False) -> Float[Array, "batch classes"]:
        """Logits. With `train`, dropout is on and needs `rngs={"dropout": key}`."""

        def layer(i: int, x: Array, z: Array) -> Array:
            y = Neurons(ACTIVATIONS[self.activation], name=f"dense{i}")(z)
            return nn.Dropout(self.dropout, deterministic=not train)(y)

        return perceptron(images, self.depth, self.neurons, self.classes, layer)


def perceptron(
    images: Float[Array, "batch ..."],
    depth: int,
    neurons: int,
    classes: int,
    layer: Callable[[int, Array, Array], Array],
) -> Float[Array, "batch classes"]:
    """Logits of [Dense - layer] x depth - Dense, inside of a module's compact method: `affine1` ..., `logits`.

    `layer(i, x, z)` gives what layer i, counted from 1, passes on, from what its Dense got and what that gave.
    """

    def dense(features: int, name: str) -> nn.Dense:
        return nn.Dense(features, kernel_init=jax.nn.initializers.glorot_uniform(), name=name)

    x = images.reshape(images.shape[0], -1)
    for i in range(1, depth + 1):
        x = layer(i, x, dense(neurons, f"affine{i}")(x))
    return dense(classes, "logits")(x)
