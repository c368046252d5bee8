"""What is known of single samples from a training run: the published scores. All are of the host's arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree

from neuron_mech.taps.objectives import cross_entropy
from neuron_mech.training.datasets import Samples

Labels = Int[np.ndarray, " samples"]
Scores = Float[np.ndarray, " samples"]
Right = Bool[np.ndarray, "epochs samples"]
"""Whether each sample is right at the end of each epoch."""


def area_under_margin(logits: Float[np.ndarray, "epochs samples classes"], labels: Labels) -> Scores:
    """AUM: mean over epochs of the label's logit minus the largest other one (Pleiss et al., 2020); low where wrong."""
    own = np.take_along_axis(logits, labels[None, :, None], -1)[..., 0]
    others = np.where(np.arange(logits.shape[-1]) == labels[:, None], -np.inf, logits)
    return (own - others.max(-1)).mean(0, dtype=np.float64)


def learned(
    logits: Float[np.ndarray, "*epochs samples classes"], labels: Labels
) -> Bool[np.ndarray, "*epochs samples"]:
    """Whether the label has the largest logit, epoch by epoch; nothing is learned where that is no number."""
    return (logits.argmax(-1) == labels) & np.isfinite(logits.max(-1))


def forgetting_events(right: Right) -> Int[np.ndarray, " samples"]:
    """Epochs at which a sample is wrong that was right one before (Toneva et al., 2019).

    A sample that was never right counts as many as there are epochs, more than any other: it is forgotten most.
    """
    events = (right[:-1] & ~right[1:]).sum(0)
    return np.where(right.any(0), events, len(right))


def first_learned(right: Right) -> Int[np.ndarray, " samples"]:
    """The first epoch, counted from 0, at whose end a sample is right; as many as there are where it never is."""
    return np.where(right.any(0), right.argmax(0), len(right))


def el2n(logits: Float[np.ndarray, "samples classes"], labels: Labels) -> Scores:
    """EL2N: the length of softmax(logits) - one-hot label, early in training (Paul et al., 2021)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    error = shifted / shifted.sum(-1, keepdims=True) - np.eye(logits.shape[-1])[labels]
    return np.linalg.norm(error, axis=-1)


def grand(model: nn.Module, variables: PyTree, samples: Samples) -> Float[Array, " samples"]:
    """GraNd: the length of a sample's gradient of its cross-entropy in all parameters (Paul et al., 2021). Pure.

    In evaluation mode, of one network early in training; published is the mean over ten of them, as of EL2N.
    """

    def length(sample: Samples) -> Array:
        one = jax.tree.map(lambda leaf: leaf[None], sample)

        def loss(params: PyTree) -> Array:
            logits: Any = model.apply({**variables, "params": params}, one.inputs)
            return cross_entropy(logits, one.labels)[0]

        gradient = jax.grad(loss)(variables["params"])
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))

    return jax.lax.map(length, samples, batch_size=100)
