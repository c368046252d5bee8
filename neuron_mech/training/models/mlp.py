"""The multilayer perceptron of the paper's MNIST experiments (appendix A)."""

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
        x = images.reshape(images.shape[0], -1)
        for i in range(1, self.depth + 1):
            x = _dense(self.neurons, name=f"affine{i}")(x)
            x = Neurons(ACTIVATIONS[self.activation], name=f"dense{i}")(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return _dense(self.classes, name="logits")(x)


def _dense(features: int, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=jax.nn.initializers.glorot_uniform(), name=name)
