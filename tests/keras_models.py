"""ResNet50 as Keras's layers make it, narrow, with weights that are nobody's defaults."""

from functools import partial

import numpy as np

from neuron_mech.training.models.resnet import BLOCKS

FEW = {2: "a", 3: "a", 4: "a", 5: "ab"}
"""Blocks of a shallow network, for what does not ask how many there are: compiling sixteen is most of the time."""

NARROW = (2, 3, 4, 5)
"""Neurons of a narrow network's stages."""


def without_drawing(patch, keras):
    """Kernels of Keras's models begin as zeros: drawing each is a program to compile, and `disturbed` gives others."""
    zeros = lambda self, shape, dtype=None, **_: np.zeros(shape, dtype or "float32")  # noqa: E731
    patch.setattr(keras.initializers.GlorotUniform, "__call__", zeros)


def disturbed(keras, model, seed=0):
    """A Keras model whose weights, scales and statistics are nobody's defaults."""
    draw = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            scale, shift, mean, variance = (w.shape for w in layer.get_weights())
            uniform, normal = (lambda s: draw.uniform(0.5, 1.5, s)), (lambda s: draw.normal(0, 0.3, s))
            layer.set_weights([uniform(scale), normal(shift), normal(mean), uniform(variance)])
        elif layer.weights:
            kernel, bias = (w.shape for w in layer.get_weights())
            layer.set_weights([draw.normal(0, np.prod(kernel[:-1]) ** -0.5, kernel), draw.normal(0, 0.1, bias)])
    return model


def assembled(keras, variant, pixels):
    """A narrow network from Keras's layers, named as in 2017; outputs: pre-activations of all sites, and logits."""
    layers = keras.layers
    convolution = partial(layers.Conv2D, padding="same", kernel_initializer="zeros")
    image = layers.Input((pixels, pixels, 3))
    if variant == "small":
        x = convolution(NARROW[0], 3, name="conv1")(image)
    else:
        x = convolution(NARROW[0], 7, strides=2, name="conv1")(image)
    x = layers.BatchNormalization(name="bn_conv1")(x)
    found = [x]
    x = layers.Activation("relu")(x)
    if variant != "small":
        x = layers.MaxPooling2D((3, 3), strides=(2, 2))(x)
    for (stage, letters), neurons in zip(BLOCKS.items(), NARROW, strict=True):
        for letter in letters:
            strides = 2 if letter == "a" and stage > 2 else 1
            shapes = {"2a": (neurons, 1, strides), "2b": (neurons, 3, 1), "2c": (4 * neurons, 1, 1)}
            y, z = x, x
            for branch, (count, kernel, step) in shapes.items():
                name = f"{stage}{letter}_branch{branch}"
                y = convolution(count, kernel, strides=step, name=f"res{name}")(y)
                y = layers.BatchNormalization(name=f"bn{name}")(y)
                y = layers.Activation("relu")(y) if branch != "2c" else y
            if letter == "a":
                name = f"{stage}{letter}_branch1"
                z = convolution(4 * neurons, 1, strides=strides, name=f"res{name}")(z)
                z = layers.BatchNormalization(name=f"bn{name}")(z)
            x = layers.Add()([y, z])
            found.append(x)
            x = layers.Activation("relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, [*found, layers.Dense(10, name="fc1000")(x)])
