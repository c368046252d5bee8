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
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from neuron_mech.config import Objective
from neuron_mech.errors import InputError


def check_labels(labels: ArrayLike, classes: int, of: str) -> None:
    """Raise InputError where these are not class labels, integers from 0 to `classes` - 1, and for under 2 classes.

    The margin of an invalid label would be a number too, but a wrong one, since no logit is the right one. `of` names
    the labels in the error.
    """
    if classes < 2:
        raise InputError(f"{of}: of {classes} class{'es' * (classes != 1)}, and a margin is between two at least")
    if isinstance(labels, jax.core.Tracer):
        return  # inside a compiled function their values are not known
    here = np.asarray(labels)
    if not np.issubdtype(here.dtype, np.integer):
        raise InputError(f"{of} are {here.dtype}: class labels are integers, as labels.astype(int) makes them")
    if len(wrong := np.argwhere((here < 0) | (here >= classes))):
        where = f" (in {len(wrong):,} of {here.size:,}, first in row {wrong[0][0]})" * (here.size > 1)
        raise InputError(
            f"{of}: {here[tuple(wrong[0])]} is none of {classes} classes, which are 0 to {classes - 1}{where}: give "
            "every sample its class, counted from 0"
        )


def margin(logits: Float[Array, "*b classes"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """The margin m = logsumexp(logits of the wrong classes) - logit of the right class, in nats.

    The cross-entropy is softplus(m), so derivatives of the margin have its signs, exactly. It is negative where the
    right class has a probability above 1/2.

    Arguments:
        logits: outputs of shape (..., classes), with at least two classes.
        labels: integer class labels of shape (...), from 0 to classes - 1.

    >>> float(margin(jnp.array([2.0, 0.0]), jnp.array(0)))
    -2.0
    """
    right = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.bool_)
    wrong = jax.nn.logsumexp(jnp.where(right, -jnp.inf, logits), axis=-1)
    return wrong - jnp.sum(jnp.where(right, logits, 0.0), axis=-1)


def right(logits: Float[Array, "*b classes"], labels: Int[Array, "*b"]) -> Bool[Array, "*b"]:
    """Whether the label's logit is the largest; of equal ones the first counts.

    Where the largest is no number (NaN) or infinite nothing is right: a network that diverged has accuracy 0, and is
    not taken for one at chance.
    """
    return (jnp.argmax(logits, axis=-1) == labels) & jnp.isfinite(logits.max(-1))


def cross_entropy(logits: Float[Array, "*b classes"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Cross-entropy (nats) through log-softmax, as frameworks compute it today."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def keras2017(logits: Float[Array, "*b classes"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Cross-entropy (nats) of probabilities clipped to [1e-7, 1 - 1e-7], as Keras 2.0 computed it.

    Its derivative is exactly zero for a sample whose probability lies outside: the paper's zeros.
    """
    probability = jnp.clip(jax.nn.softmax(logits), 1e-7, 1 - 1e-7)
    return -jnp.log(jnp.take_along_axis(probability, labels[..., None], axis=-1)[..., 0])


HALVES: tuple[Objective, ...] = ("keras2017-float16",)
"""Objectives whose derivatives are divided by the batch size and stored as float16 before their sign is taken."""

OBJECTIVES: dict[Objective, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "margin": margin,
    "cross_entropy": cross_entropy,
    "keras2017": keras2017,
    "keras2017-float16": keras2017,
}
assert set(OBJECTIVES) == set(get_args(Objective))
