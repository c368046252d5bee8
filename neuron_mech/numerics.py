"""How many recorded signs are the arithmetic's and not the network's: an audit in double precision.

The sign of a derivative that is a difference of nearly equal numbers, or that underflows, is decided by rounding. What
a recording saw is held against the same derivative in float64, on the CPU, for a few samples.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from neuron_mech import taps
from neuron_mech.presets import Derivative
from neuron_mech.taps import PerSampleLoss, Site


class SignHealth(NamedTuple):
    """Shares of the derivatives at a site that are not zero in float64."""

    wrong: float
    """Computed with the opposite sign."""
    zeroed: float
    """Computed as exactly zero, so that a recording does not count them."""


def sign_health(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: Float[Array, "samples ..."],
    labels: Array,
    sites: Mapping[str, Site],
    objectives: Mapping[str, PerSampleLoss],
    reference: PerSampleLoss,
    derivative: Derivative = "activation",
    chunk: int = 20,
) -> dict[str, dict[str, SignHealth]]:
    """{objective: {site: SignHealth}} of per-sample derivatives in evaluation mode, against `reference` in float64.

    `reference` is a loss whose derivatives truly have the signs of all `objectives`: for cross-entropy, the margin.
    """

    @jax.jit
    def as_recorded(variables: PyTree, inputs: Array, labels: Array) -> dict[str, dict[str, Array]]:
        return taps.per_sample_gradients(model, variables, inputs, labels, sites, objectives, derivative)

    @jax.jit
    def exact(variables: PyTree, inputs: Array, labels: Array) -> dict[str, Array]:
        double = {name: replace(site, dtype=jnp.float64) for name, site in sites.items()}
        found = taps.per_sample_gradients(
            model, variables, inputs, labels, double, {"reference": reference}, derivative
        )
        return found["reference"]

    totals = {o: {site: np.zeros(3, np.int64) for site in sites} for o in objectives}
    doubled = _double(variables)
    for start in range(0, len(labels), chunk):
        part, answers = inputs[start : start + chunk], labels[start : start + chunk]
        found = jax.device_get(as_recorded(variables, part, answers))
        with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
            true = jax.device_get(exact(doubled, _double(part), np.asarray(answers)))
        for objective, by_site in totals.items():
            for site, total in by_site.items():
                sign, computed = np.sign(true[site]), np.sign(found[objective][site]).astype(np.float64)
                total += [(sign * computed < 0).sum(), ((computed == 0) & (sign != 0)).sum(), (sign != 0).sum()]
    return {
        objective: {
            site: SignHealth(*(total[:2] / total[2]).tolist()) if total[2] else SignHealth(np.nan, np.nan)
            for site, total in by_site.items()
        }
        for objective, by_site in totals.items()
    }


def _double(tree: PyTree) -> PyTree:
    """The tree on the host, its floating-point arrays in float64."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else np.asarray(leaf),
        tree,
    )
