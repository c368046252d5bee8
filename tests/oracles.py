"""Slow, obvious, double-precision versions of what the package computes, to compare it with."""

import itertools

import numpy as np
from scipy.special import logsumexp


def margin(logits: np.ndarray, label: int) -> float:
    """Log-sum-exp of the wrong logits minus the right one."""
    wrong = np.delete(np.asarray(logits, np.float64), label)
    return float(logsumexp(wrong) - float(logits[label]))


class MLP:
    """The two-hidden-layer perceptron by hand, one sample at a time, in float64."""

    def __init__(self, params: dict, activation: str):
        self.layers = [
            (np.asarray(params[n]["kernel"], np.float64), np.asarray(params[n]["bias"], np.float64))
            for n in ("affine1", "affine2", "logits")
        ]
        self.activation = activation

    def _act(self, z: np.ndarray) -> np.ndarray:
        return np.maximum(z, 0) if self.activation == "relu" else 1 / (1 + np.exp(-z))

    def _slope(self, z: np.ndarray) -> np.ndarray:
        if self.activation == "relu":
            return (z > 0).astype(np.float64)
        a = self._act(z)
        return a * (1 - a)

    def forward(self, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """(pre-activations of both hidden layers, logits)."""
        (w1, b1), (w2, b2), (w3, b3) = self.layers
        z1 = x.ravel().astype(np.float64) @ w1 + b1
        z2 = self._act(z1) @ w2 + b2
        return [z1, z2], self._act(z2) @ w3 + b3

    def margin_gradients(self, x: np.ndarray, label: int) -> dict[str, dict[str, np.ndarray]]:
        """{derivative: {site: d margin / d value}} by the chain rule."""
        (z1, z2), logits = self.forward(x)
        (_, _), (w2, _), (w3, _) = self.layers
        d_logits = np.exp(logits - logsumexp(np.delete(logits, label)))
        d_logits[label] = -1.0
        d_a2 = w3 @ d_logits
        d_z2 = d_a2 * self._slope(z2)
        d_a1 = w2 @ d_z2
        return {
            "activation": {"dense1": d_a1, "dense2": d_a2},
            "pre_activation": {"dense1": d_a1 * self._slope(z1), "dense2": d_z2},
        }


def counts(tally) -> dict[str, np.ndarray]:
    """What a tally holds, on the host: looked at pair by pair, JAX's arrays are slow."""
    return {name: np.asarray(getattr(tally, name)) for name in ("positive", "negative", "flips")}


def tally(signs: np.ndarray) -> dict[str, int]:
    """Counts of one pair from its signs over time, as a person would keep them."""
    nonzero = [int(s) for s in signs if s != 0]
    return {
        "positive": sum(s > 0 for s in nonzero),
        "negative": sum(s < 0 for s in nonzero),
        "flips": sum(a != b for a, b in itertools.pairwise(nonzero)),
        "last": nonzero[-1] if nonzero else 0,
    }
