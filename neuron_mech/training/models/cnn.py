"""The convolutional network of the paper's CIFAR-10 experiments: twelve layers in four stages of three."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuron_mech.errors import InputError
from neuron_mech.taps.neurons import ACTIVATIONS, Neurons


class CNN(nn.Module):
    """L x 3 - MP - L x 3 - MP - L x 3 - MP - L x 3 - GP - Dense; sites `stage0layer0` ... `stage3layer2`.

    L is a 3x3 convolution that keeps the map's size, the activation function, and batch normalisation, in this order;
    MP is 2x2 max pooling, GP the average over all positions. `neurons` are those of a layer in each stage, `depth` is
    the number of a stage's layers, the 3 above. Kernels are Glorot-uniform, biases zero, batch normalisation's
    momentum 0.99 and epsilon 1e-3: Keras's defaults of 2017. Height and width halve from stage to stage, rounded down:
    images have to be 8 x 8 at least. Raises InputError for smaller ones.

    >>> import jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> from neuron_mech.training.models import CNN
    >>> model, images = CNN(depth=1, neurons=(2, 4, 8, 16)), jnp.ones((5, 8, 8, 3))
    >>> shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> {name: site.shape for name, site in neuron_mech.sites(model, shapes, images).items() if name[-1].isdigit()}
    {'stage0layer0': (8, 8, 2), 'stage1layer0': (4, 4, 4), 'stage2layer0': (2, 2, 8), 'stage3layer0': (1, 1, 16)}
    """

    activation: str = "relu"
    """relu, sigmoid or linear, which is no function."""
    depth: int = 3
    """Layers of each stage."""
    neurons: tuple[int, ...] = (64, 128, 256, 512)
    """Neurons of a layer in each stage: as many stages as there are numbers."""
    classes: int = 10
    """Number of logits."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits. With `train`, normalised by the batch's own statistics, and `batch_stats` must be mutable."""
        x, least = images, 2 ** (len(self.neurons) - 1)
        if min(images.shape[1:3]) < least:
            height, width = images.shape[1:3]
            raise InputError(
                f"images of {height} x {width} pixels vanish in the pooling between {len(self.neurons)} stages: give "
                f"{least} x {least} at least"
            )
        for stage, neurons in enumerate(self.neurons):
            x = max_pool(x) if stage else x
            for layer in range(self.depth):
                name = f"stage{stage}layer{layer}"
                x = nn.Conv(neurons, (3, 3), kernel_init=_glorot, name=f"{name}_conv")(x)
                x = Neurons(ACTIVATIONS[self.activation], name=name)(x)
                x = nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, name=f"{name}_norm")(x)
        return nn.Dense(self.classes, kernel_init=_glorot, name="logits")(x.mean((1, 2)))


def max_pool(maps: Float[Array, "batch height width neurons"]) -> Float[Array, "batch rows columns neurons"]:
    """The largest of every 2x2 positions; a last odd row or column is left out.

    Equal to `nn.max_pool`, and so is its derivative, which goes to the first of equal values (after a ReLU there are
    many). Written as three comparisons, XLA fuses it with its neighbours: a tenth of a training step on a CPU.
    """
    height, width = (size // 2 * 2 for size in maps.shape[1:3])
    first, *others = (maps[:, row:height:2, column:width:2] for row in (0, 1) for column in (0, 1))
    for other in others:
        first = jnp.where(other > first, other, first)
    return first


_glorot = jax.nn.initializers.glorot_uniform()
