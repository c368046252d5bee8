"""The multilayer perceptron of the paper's MNIST experiments (appendix A)."""

from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from neuron_mech.taps.neurons import ACTIVATIONS, Neurons


class MLP(nn.Module):
    """[Dense - activation - dropout] x depth - Dense; sites `dense1`, `dense2` ...

    Kernels are Glorot-uniform and biases zero, Keras's defaults of 2017.
    """

    activation: str = "relu"
    depth: int = 2
    neurons: int = 512
    dropout: float = 0.5
    classes: int = 10

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
