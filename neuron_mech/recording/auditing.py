"""How many recorded signs are the arithmetic's and not the network's: an audit in double precision.

The sign of a derivative that is a difference of nearly equal numbers, or that underflows, is decided by rounding. What
a recording saw, on the device that it ran on, is held against the same derivative in float64, for a few samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from neuron_mech import taps
from neuron_mech.config import Derivative
from neuron_mech.errors import InputError, first_line
from neuron_mech.precision import Precision, rewritten, shifted
from neuron_mech.taps import PerSampleLoss, Site, SiteError

LIMIT = 0.001
"""Share of wrong signs above which it is said that a recording is not to be trusted."""


class SignHealth(NamedTuple):
    """Shares of the derivatives at a site that are not zero in float64."""

    wrong: float
    """Computed with the opposite sign."""
    zeroed: float
    """Computed as exactly zero, so that a recording does not count them."""
    underflowed: float
    """Below the smallest normal number of the type they are computed in: too small for it, however computed."""


def sign_health(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    sites: Mapping[str, Site],
    objectives: Mapping[str, PerSampleLoss],
    reference: PerSampleLoss,
    derivative: Derivative = "activation",
    precision: Precision = "exact",
    chunk: int = 20,
    **kwargs: Any,
) -> dict[str, dict[str, SignHealth]]:
    """{objective: {site: SignHealth}} of per-sample derivatives, as recorded in this precision on this device.

    `reference` is a loss whose derivatives truly have the signs of all `objectives`: for cross-entropy, the margin.
    `kwargs` go to `apply`. Raises InputError where the model casts by itself, so that it cannot be computed in double
    precision.
    """

    @jax.jit
    def recorded(variables: PyTree, inputs: PyTree, labels: PyTree) -> dict[str, dict[str, Array]]:
        common = (model, variables, inputs, labels, sites, objectives, derivative, precision)
        return taps.per_sample_gradients(*common, **kwargs)

    exact = in_double(model, sites, reference, derivative, **kwargs)
    return against(exact, recorded, variables, inputs, labels, chunk)


Gradients = Callable[[PyTree, PyTree, PyTree], dict[str, Any]]
"""(variables, inputs, labels) -> {site: every sample's derivative}."""


def in_double(
    model: nn.Module,
    sites: Mapping[str, Site],
    loss: PerSampleLoss,
    derivative: Derivative = "activation",
    **kwargs: Any,
) -> Gradients:
    """Every sample's own derivatives in float64, on the host, those of layers with a `dtype` of their own too.

    Computed where float64 is: on a GPU itself, else on the CPU. Convolutions are matrix products (`precision.shifted`),
    many times as fast in float64.
    """
    double = {name: replace(site, dtype=jnp.float64) for name, site in sites.items()}

    def gradients(variables: PyTree, inputs: PyTree, labels: PyTree) -> dict[str, Array]:
        try:
            with nn.intercept_methods(_in_double):
                common = (model, variables, inputs, labels, double, {"reference": loss}, derivative)
                return taps.per_sample_gradients(*common, **kwargs)["reference"]
        except (SiteError, TypeError) as error:
            raise InputError(f"the model cannot be computed in double precision: {first_line(error)}") from error

    compiled = jax.jit(rewritten(gradients, shifted))

    def run(variables: PyTree, inputs: PyTree, labels: PyTree) -> dict[str, np.ndarray]:
        with jax.enable_x64(True), jax.default_device(_home()):
            return jax.device_get(compiled(_double(variables), _double(inputs), _double(labels)))

    return run


def against(
    exact: Gradients,
    computed: Callable[[PyTree, PyTree, PyTree], dict[str, dict[str, Array]]],
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    chunk: int = 20,
) -> dict[str, dict[str, SignHealth]]:
    """{name: {site: SignHealth}} of what `computed` gives by name, each held against `exact`; a chunk at a time."""
    totals: dict[str, dict[str, np.ndarray]] = {}
    for start in range(0, taps.batch_size(inputs), chunk):
        part, answers = jax.tree.map(lambda leaf, s=start: leaf[s : s + chunk], (inputs, labels))
        true = exact(variables, part, answers)
        for name, by_site in jax.device_get(computed(variables, part, answers)).items():
            for site, found in by_site.items():
                sign, seen = np.sign(true[site]), np.sign(found).astype(np.float64)
                tiny = np.abs(true[site]) < float(jnp.finfo(found.dtype).tiny)
                shares = (sign * seen < 0, (seen == 0) & (sign != 0), tiny & (sign != 0), sign != 0)
                total = totals.setdefault(name, {}).setdefault(site, np.zeros(4, np.int64))
                total += [which.sum() for which in shares]
    return {
        name: {
            site: SignHealth(*(total[:3] / total[3]).tolist()) if total[3] else SignHealth(np.nan, np.nan, np.nan)
            for site, total in by_site.items()
        }
        for name, by_site in totals.items()
    }


def _home() -> jax.Device:
    """Where double precision is computed."""
    device = jax.local_devices()[0]
    return device if device.platform == "gpu" else jax.local_devices(backend="cpu")[0]


def _double(tree: PyTree) -> PyTree:
    """The tree on the host, its floating-point arrays in float64."""

    def double(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return np.asarray(leaf, np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else np.asarray(leaf)

    return jax.tree.map(double, tree)


def _in_double(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    """Calls a module that computes in a floating-point `dtype` of its own in float64 instead."""
    module = context.module
    kind = getattr(module, "dtype", None)
    if kind is None or not jnp.issubdtype(kind, jnp.floating):
        return call(*args, **kwargs)
    object.__setattr__(module, "dtype", jnp.float64)  # a bound module is frozen, and only this pass sees it
    try:
        return call(*args, **kwargs)
    finally:
        object.__setattr__(module, "dtype", kind)
