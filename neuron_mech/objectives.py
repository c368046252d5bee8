"""Per-sample objectives: functions of one sample's logits and label whose derivatives are recorded.

Write `m` for the margin. The cross-entropy is `softplus(m)`, so its derivative with respect to anything is
`sigmoid(m)` times the margin's: the *sign* is the margin's sign, at any confidence. In float32 the cross-entropy
itself loses that sign when the network is sure (its derivative is a difference of nearly equal numbers), and the
clipped one loses it by design. All take logits of shape (..., classes) and integer labels (...), and return (...).
"""

from collections.abc import Callable
from typing import get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from neuron_mech.presets import Objective


def margin(logits: Float[Array, "*b classes"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Log-sum-exp of the wrong classes' logits minus the right class's logit (nats); negative where right."""
    right = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.bool_)
    wrong = jax.nn.logsumexp(jnp.where(right, -jnp.inf, logits), axis=-1)
    return wrong - jnp.sum(jnp.where(right, logits, 0.0), axis=-1)


def cross_entropy(logits: Float[Array, "*b classes"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Cross-entropy (nats) through log-softmax, as frameworks compute it today."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def keras2017(logits: Float[Array, "*b classes"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Cross-entropy (nats) of probabilities clipped to [1e-7, 1 - 1e-7], as Keras 2.0 computed it.

    Its derivative is exactly zero for a sample whose probability lies outside: the paper's zeros.
    """
    probability = jnp.clip(jax.nn.softmax(logits), 1e-7, 1 - 1e-7)
    return -jnp.log(jnp.take_along_axis(probability, labels[..., None], axis=-1)[..., 0])


OBJECTIVES: dict[Objective, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "margin": margin,
    "cross_entropy": cross_entropy,
    "keras2017": keras2017,
}
assert set(OBJECTIVES) == set(get_args(Objective))
