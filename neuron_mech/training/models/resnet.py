"""ResNet50 (He et al., 2015) as Keras Applications has it, and with a stem for small images."""

from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuron_mech.taps.neurons import ACTIVATIONS, Neurons

BLOCKS = {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"}
"""The blocks of each stage, as the paper names them."""

MEANS = (103.939, 116.779, 123.68)
"""ImageNet's mean blue, green and red."""


class Variant(NamedTuple):
    """The differences between published networks: the first layers, and batch normalisation's epsilon."""

    kernel: int
    strides: int
    padding: int | Literal["SAME"]
    pool_padding: int | None
    """Rows and columns of zeros around the input of max pooling; None for no pooling."""
    caffe: bool
    """Whether images are preprocessed by `caffe`."""
    epsilon: float


VARIANTS = {
    "keras3": Variant(7, 2, padding=3, pool_padding=1, caffe=True, epsilon=1.001e-5),
    "keras2017": Variant(7, 2, padding="SAME", pool_padding=0, caffe=True, epsilon=1e-3),
    "small": Variant(3, 1, padding="SAME", pool_padding=None, caffe=False, epsilon=1e-3),
}
"""The variants by name, as in a preset's `model` section. They share every layer but a small image's first kernel."""


class ResNet50(nn.Module):
    """Stem, 16 blocks in four stages, global average pooling and Dense; sites `conv1`, `2a` ... `5c`.

    A block adds three convolutions (1x1, 3x3, 1x1, with the stride in the first) to its input, or in a stage's first
    block to a 1x1 convolution of its input, and applies the activation function to the sum: these are its neurons, four
    times `neurons` of its stage. Batch normalisation follows each convolution. Layers have the names of He et al. and
    of Keras in 2017, such as `2a_branch2c_conv` and `2a_branch2c_norm`; `branch1` is the convolution of the input. The
    activation functions between a block's convolutions are no sites.

    Kernels are Glorot-uniform, biases zero, batch normalisation's momentum 0.99: Keras's defaults. With the default
    `neurons` and 1,000 classes it has the 25.6 million parameters of Keras's.

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech.training.models import ResNet50
    >>> model = ResNet50(neurons=(1, 1, 1, 1), classes=3)
    >>> logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.ones((5, 32, 32, 3)))
    >>> logits.shape, sorted(variables), variables["params"]["conv1_conv"]["kernel"].shape
    ((5, 3), ['batch_stats', 'params'], (3, 3, 3, 1))
    """

    variant: str = "small"
    """One of VARIANTS: keras3 and keras2017 for images of ImageNet's size, small for those of CIFAR-10's."""
    activation: str = "relu"
    """relu, sigmoid or linear, which is no function."""
    neurons: tuple[int, ...] = (64, 128, 256, 512)
    """Neurons of a block's inner convolutions, for each of the four stages; its sites have four times as many."""
    classes: int = 10
    """Number of logits."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits. With `train`, normalised by the batch's own statistics, and `batch_stats` must be mutable."""
        variant, activation = VARIANTS[self.variant], ACTIVATIONS[self.activation]
        normalise = partial(nn.BatchNorm, use_running_average=not train, momentum=0.99, epsilon=variant.epsilon)

        def affine(x: Array, name: str, neurons: int, kernel: int, strides: int = 1, padding: int | str = 0) -> Array:
            x = nn.Conv(neurons, (kernel, kernel), strides, padding, kernel_init=_glorot, name=f"{name}_conv")(x)
            return normalise(name=f"{name}_norm")(x)

        x = caffe(images) if variant.caffe else images
        x = affine(x, "conv1", self.neurons[0], variant.kernel, variant.strides, variant.padding)
        x = Neurons(activation, name="conv1")(x)
        if variant.pool_padding is not None:
            frame = (variant.pool_padding, variant.pool_padding)
            x = nn.max_pool(jnp.pad(x, ((0, 0), frame, frame, (0, 0))), (3, 3), strides=(2, 2))
        for (stage, letters), neurons in zip(BLOCKS.items(), self.neurons, strict=True):
            for block in (f"{stage}{letter}" for letter in letters):
                first = block.endswith("a")
                strides = 2 if first and stage > 2 else 1
                around = affine(x, f"{block}_branch1", 4 * neurons, 1, strides) if first else x
                x = activation(affine(x, f"{block}_branch2a", neurons, 1, strides))
                x = activation(affine(x, f"{block}_branch2b", neurons, 3, padding="SAME"))
                x = affine(x, f"{block}_branch2c", 4 * neurons, 1)
                x = Neurons(activation, name=block)(around + x)
        return nn.Dense(self.classes, kernel_init=_glorot, name="logits")(x.mean((1, 2)))


def shapes(model: ResNet50) -> dict[str, Any]:
    """Shapes of the network's parameters and statistics, which do not depend on the size of its images."""
    found = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    return {name: found[name] for name in ("params", "batch_stats")}


def caffe(images: Float[Array, "batch height width 3"]) -> Float[Array, "batch height width 3"]:
    """RGB images in [0, 1] as Keras's ImageNet weights need them: 0 to 255, blue green red, minus MEANS.

    It is part of the network, so that images are in [0, 1] everywhere else, as for any other network.
    """
    return jnp.stack([255 * images[..., 2 - channel] - mean for channel, mean in enumerate(MEANS)], axis=-1)


_glorot = jax.nn.initializers.glorot_uniform()
