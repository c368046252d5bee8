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
    """A two-value code for every percentile rank: each neuron's threshold at that rank, and its means on either side.

    Of all pairs of values the two means have the least squared error (see `squared_error`). Apply one code to
    pre-activations by calling it, several by `jax.vmap`; `evaluation.accuracies` does so inside of a network.

    Arguments:
        values: pre-activations of shape (values, neurons), from which thresholds and means are taken. Of a neuron with
            a NaN among them, all three numbers are NaN.
        ranks: percentile ranks from 0 to 100. At rank 100 no value lies above, so that every value becomes their mean;
            at rank 0 only the smallest are on the lower side.

    Returns:
        `TwoValues` whose `threshold`, `low` and `high` are float32 of shape (ranks, neurons).

    Raises InputError as `percentiles.percentiles` does. One code is made after another, so that memory holds a few
    copies of the values, whatever the number of ranks.

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech.codes import quantization
    >>> values = jnp.array([[0.0], [1.0], [2.0], [9.0]])
    >>> codes = quantization.at_ranks(values, [50, 100])
    >>> jax.vmap(lambda code: code(values))(codes)[..., 0].tolist()
    [[0.5, 0.5, 5.5, 5.5], [3.0, 3.0, 3.0, 3.0]]
    """
    return _at_thresholds(values, jnp.asarray(percentiles(values, ranks)))


@jax.jit
def _at_thresholds(values: Float[Array, "values neurons"], thresholds: Float[Array, "codes neurons"]) -> TwoValues:
    # One after another: all at once would need a copy of the values for each.
    return jax.lax.map(lambda threshold: at_threshold(values, threshold), thresholds)


def at_threshold(values: Float[Array, "values neurons"], threshold: Float[Array, " neurons"]) -> TwoValues:
    """The two-value code with these thresholds, and the means of the values on either side.

    With a threshold of 0 it transmits the one bit that decides whether a ReLU lets a value through.

    Arguments:
        values: pre-activations of shape (values, neurons).
        threshold: of shape (neurons,), in the values' unit. A value at the threshold is on the lower side.

    Returns:
        `TwoValues` of shape (neurons,). Where one side is empty, `low` and `high` are both the mean of all values. Of a
        neuron with a NaN among its values both are NaN.

    >>> import jax.numpy as jnp
    >>> from neuron_mech.codes.quantization import at_threshold
    >>> code = at_threshold(jnp.array([[-3.0, 1.0], [-1.0, 2.0], [4.0, 3.0]]), jnp.zeros(2))
    >>> code.low.tolist(), code.high.tolist()
    ([-2.0, 2.0], [4.0, 2.0])
    >>> code(jnp.array([[0.0, 7.0], [0.1, 7.0]])).tolist()
    [[-2.0, 2.0], [4.0, 2.0]]
    """
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
