"""Two-value quantization: each pre-activation becomes the mean of its side of a threshold (section 5.1, figure 3).

Values at the threshold belong to the lower side. Where a side is empty, both means are the other side's.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from neuron_mech.codes.percentiles import percentiles


class TwoValues(struct.PyTreeNode):
    """A threshold and two values for each neuron; with a leading axis, several such codes."""

    threshold: Float[Array, "*codes neurons"]
    low: Float[Array, "*codes neurons"]
    high: Float[Array, "*codes neurons"]

    def __call__(self, pre_activation: Float[Array, "*batch neurons"]) -> Float[Array, "*batch neurons"]:
        """Each value replaced by the value of its side. For one code; map over several with `jax.vmap`."""
        like = (1,) * (pre_activation.ndim - 1)
        over = pre_activation > self.threshold.reshape(*like, -1)  # the one bit that the code transmits
        return jnp.where(over, self.high.reshape(*like, -1), self.low.reshape(*like, -1))


def at_ranks(values: Float[Array, "values neurons"], ranks: Sequence[float]) -> TwoValues:
    """A code for every percentile rank: thresholds and means of each neuron's own values. Shapes (ranks, neurons)."""
    return _at_thresholds(values, jnp.asarray(percentiles(values, ranks)))


@jax.jit
def _at_thresholds(values: Float[Array, "values neurons"], thresholds: Float[Array, "codes neurons"]) -> TwoValues:
    # One after another: all at once would need a copy of the values for each.
    return jax.lax.map(lambda threshold: at_threshold(values, threshold), thresholds)


def at_threshold(values: Float[Array, "values neurons"], threshold: Float[Array, " neurons"]) -> TwoValues:
    """The code with these thresholds and the means of the values on either side."""
    over = values > threshold[None]
    many = over.sum(axis=0, dtype=jnp.float32)
    few = values.shape[0] - many
    # Means of deviations from the middle: sums of 10^5 values of one sign would lose digits.
    middle = values.mean(axis=0)
    deviation = values - middle[None]
    high = middle + jnp.where(over, deviation, 0.0).sum(axis=0) / jnp.maximum(many, 1.0)
    low = middle + jnp.where(over, 0.0, deviation).sum(axis=0) / jnp.maximum(few, 1.0)
    return TwoValues(threshold, jnp.where(few > 0, low, high), jnp.where(many > 0, high, low))


def squared_error(values: Float[Array, "values neurons"], code: TwoValues) -> Float[Array, " neurons"]:
    """Mean squared error of one code, by neuron: the variance of Gaussian noise of the same error."""
    return ((code(values) - values) ** 2).mean(axis=0)


# --- Codes for `evaluation.accuracies`: functions of (code, pre-activations, key) -------------------------------------


def quantized(code: TwoValues, pre_activation: Array, key: Array) -> Array:
    """Two-value quantization itself."""
    return code(pre_activation)


def noisy(deviation: Float[Array, " neurons"], pre_activation: Array, key: Array) -> Array:
    """Control: Gaussian noise with a standard deviation for each neuron, that of the quantization's error."""
    like = (1,) * (pre_activation.ndim - 1)
    return pre_activation + deviation.reshape(*like, -1) * jax.random.normal(key, pre_activation.shape)


def permuted(code: TwoValues, pre_activation: Array, key: Array) -> Array:
    """Control: each neuron's two values, permuted at random among the batch's samples."""
    return code(jax.random.permutation(key, pre_activation, axis=0, independent=True))
