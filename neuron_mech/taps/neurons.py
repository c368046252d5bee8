"""`Neurons`: an activation function as a module, whose name names its neurons."""

from collections.abc import Callable

import flax.linen as nn
import jax


class Neurons(nn.Module):
    """Apply `fn` elementwise; sow its input as `pre_activation` into Flax's `intermediates`.

    The module's path is the *site*. Neurons lie along the last axis; the axes between it and the batch, if any,
    are positions of a feature map. Sowing costs nothing unless `intermediates` is mutable in `apply`.
    """

    fn: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, pre_activation: jax.Array) -> jax.Array:
        """The activations, of the pre-activations' shape."""
        self.sow("intermediates", "pre_activation", pre_activation)
        return self.fn(pre_activation)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "linear": lambda pre_activation: pre_activation,
}
"""Activation functions by name, as in a config's `model.activation`; linear is the identity."""
