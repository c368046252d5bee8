"""Models that no one here wrote for this package: as their own authors would write them."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp


class Plain(nn.Module):
    """The simplest."""

    width: int = 16

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1)))
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(10)(x)


class ConvNet(nn.Module):
    """Of the shape of Flax's MNIST example."""

    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(nn.relu(nn.Conv(8, (3, 3))(x)), (2, 2), strides=(2, 2))
        x = nn.avg_pool(nn.relu(nn.Conv(12, (3, 3))(x)), (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(24)(x.reshape((x.shape[0], -1))))
        return nn.Dense(10)(x)


class ResidualBlock(nn.Module):
    filters: int
    norm: nn.Module
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        y = self.norm()(nn.Conv(self.filters, (3, 3), self.strides, use_bias=False)(x))
        y = self.norm()(nn.Conv(self.filters, (3, 3), use_bias=False)(nn.relu(y)))
        if x.shape != y.shape:
            x = self.norm(name="norm_proj")(
                nn.Conv(self.filters, (1, 1), self.strides, use_bias=False, name="conv_proj")(x)
            )
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Of the shape of Flax's ImageNet example: basic blocks, batch statistics by `train`."""

    @nn.compact
    def __call__(self, x, train=True):
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        x = nn.relu(norm(name="bn_init")(nn.Conv(4, (7, 7), (2, 2), use_bias=False, name="conv_init")(x)))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage in range(2):
            x = ResidualBlock(4 * 2**stage, norm, (2, 2) if stage > 0 else (1, 1))(x)
        return nn.Dense(10)(x.mean((1, 2)))


class TransformerBlock(nn.Module):
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2]))
        y = nn.LayerNorm(dtype=self.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, dtype=self.dtype)(y, y, mask=mask)
        y = nn.gelu(nn.Dense(32, dtype=self.dtype, name="hidden")(nn.LayerNorm(dtype=self.dtype)(x)))
        return x + nn.Dense(16, dtype=self.dtype, name="back")(y)


class Transformer(nn.Module):
    """A language model: next-token logits at every position of a batch of token sequences."""

    vocabulary: int = 11
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.vocabulary, 16, dtype=self.dtype)(tokens)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, tokens.shape[1], 16)).astype(x.dtype)
        x = TransformerBlock(self.dtype, name="block_0")(x)
        return nn.Dense(self.vocabulary, dtype=self.dtype, name="logits")(nn.LayerNorm(dtype=self.dtype)(x))


class Rematerialised(nn.Module):
    """Layers that are computed again on the way back."""

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            x = nn.tanh(nn.remat(nn.Dense)(12, name=f"layer_{i}")(x))
        return nn.Dense(10)(x)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(x.shape[-1], name="dense")(x)), None


class Scanned(nn.Module):
    """Three layers in a loop that lets intermediates through."""

    remat: bool = False

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Layer, prevent_cse=False) if self.remat else Layer
        loop = nn.scan(layer, variable_axes={"params": 0, "intermediates": 0}, split_rngs={"params": True}, length=3)
        x, _ = loop(name="layers")(nn.Dense(9)(x), None)
        return nn.Dense(10)(x)


class Shared(nn.Module):
    """One layer used three times."""

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(9, name="shared")
        x = nn.Dense(9, name="first")(x)
        for _ in range(3):
            x = nn.tanh(dense(x))
        return nn.Dense(10)(x)


class Regression(nn.Module):
    """Two numbers from two inputs, given as a dictionary."""

    @nn.compact
    def __call__(self, x):
        x = jnp.concatenate([x["left"], x["right"]], -1)
        return nn.Dense(2)(nn.softplus(nn.Dense(8, name="hidden")(x)))


def squared_error(outputs, targets):
    return jnp.sum((outputs - targets) ** 2, -1)


def next_token(logits, tokens):
    """Cross-entropy of each sequence's next tokens, summed."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], -1)
    return -chosen.sum((1, 2))
