"""An audit in double precision: how many recorded signs are decided by rounding.

Rounding decides the sign of a derivative that is a difference of nearly equal numbers, or that underflows. For a few
samples, derivatives as recorded on the device are compared with the same derivatives in float64.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from neuron_mech import taps
from neuron_mech.config import Derivative
from neuron_mech.precision import Precision, doubled, rewritten, shifted
from neuron_mech.taps import PerSampleLoss, Site
from neuron_mech.taps.random_keys import on_host

LIMIT = 0.001
"""Share of wrong signs above which a warning says that a recording is not reliable."""

RESOLUTION = 1e-7
"""Derivatives below this share of the largest one are not resolved by sums in float32."""


class SignHealth(NamedTuple):
    """Shares of the derivatives at a site that are not zero in float64, unless said otherwise."""

    wrong: float
    """Computed with the opposite sign."""
    zeroed: float
    """Computed as exactly zero, so that a recording does not count them."""
    underflowed: float
    """Below the smallest normal number of the type in which they are computed."""
    unresolved: float
    """Share of the recorded signs whose true derivatives are at most RESOLUTION of the sample's largest at the site, or
    zero, so that rounding decides them. An example is the bias of an attention's keys, which has no effect."""
    not_finite: int
    """Number of derivatives that are infinite or NaN."""


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
    batched: bool = False,
    **kwargs: Any,
) -> dict[str, dict[str, SignHealth]]:
    """How many signs of per-sample derivatives rounding decides, in this precision on this device.

    The derivatives as they are recorded are compared with the same operations in float64.

    Arguments:
        model: a Linen module.
        variables: those that `model.apply` takes, `{"params": ...}`.
        inputs: a few samples, such as 64: an array or a tree, with the batch first.
        labels: what the losses are given of the same samples, with the batch first.
        sites: where; all of `neuron_mech.sites` or some.
        objectives: by name, per-sample losses, (outputs, labels) -> (batch,), whose derivatives are recorded.
        reference: a loss whose true derivatives have the signs of all `objectives`. For cross-entropy it is the margin:
            its own derivative loses the sign even in float64 where the network is sure.
        derivative: with respect to the "activation" (at `Neurons` and bare functions) or the "pre_activation".
        precision: of the recording, "exact" or "fast".
        chunk: samples at a time, which bounds the memory.
        batched: samples are batches of `chunk`, and not of one.
        **kwargs: further arguments of `model.apply`.

    Returns {objective: {site: SignHealth}}; empty without samples. Shares are NaN where they are of nothing: no true
    derivative that is not zero, or no recorded sign. Two programs are compiled, one of them in float64.

    Raises SiteError where the derivative is with respect to the activation and a site has none.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> from neuron_mech.recording import auditing
    >>> from neuron_mech.taps.objectives import cross_entropy, margin
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.zeros(5, int)
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> variables["params"]["layers_2"]["bias"] = jnp.array([200.0, 0.0, 0.0])  # sure of class 0, the right one
    >>> sites = {"layers_2": neuron_mech.sites(model, variables, x)["layers_2"]}
    >>> losses = {"margin": margin, "cross_entropy": cross_entropy}
    >>> found = auditing.sign_health(model, variables, x, labels, sites, losses, margin, "pre_activation")
    >>> {name: (of["layers_2"].wrong, of["layers_2"].zeroed) for name, of in found.items()}
    {'cross_entropy': (0.0, 1.0), 'margin': (0.0, 0.0)}
    """

    @jax.jit
    def recorded(variables: PyTree, inputs: PyTree, labels: PyTree) -> dict[str, dict[str, Array]]:
        common = (model, variables, inputs, labels)
        return _derivatives(*common, sites, objectives, derivative, precision, batched, **kwargs)

    exact = in_double(model, sites, reference, derivative, batched, **kwargs)
    return against(exact, recorded, variables, inputs, labels, chunk, batched)


def _derivatives(
    model: nn.Module,
    variables: PyTree,
    inputs: PyTree,
    labels: PyTree,
    sites: Mapping[str, Site],
    objectives: Mapping[str, PerSampleLoss],
    derivative: Derivative,
    precision: Precision,
    batched: bool,
    **kwargs: Any,
) -> dict[str, dict[str, Array]]:
    """Derivatives of samples by themselves, or of a batch as it is."""
    common, how = (model, variables, inputs, labels), (objectives, derivative, precision)
    if batched:
        return taps.activation_gradients(*common, taps.zeros(sites, taps.batch_size(inputs)), *how, **kwargs)
    return taps.per_sample_gradients(*common, sites, *how, **kwargs)


Gradients = Callable[[PyTree, PyTree, PyTree], dict[str, Any]]
"""(variables, inputs, labels) -> {site: every sample's derivative}."""


def in_double(
    model: nn.Module,
    sites: Mapping[str, Site],
    loss: PerSampleLoss,
    derivative: Derivative = "activation",
    batched: bool = False,
    **kwargs: Any,
) -> Gradients:
    """The function that computes every sample's derivatives in float64, with the same operations, as host arrays.

    Values that the model casts are float64 too, and random numbers are the same (`precision.doubled`). It runs on a GPU
    where there is one, else on the CPU. Convolutions become matrix products (`precision.shifted`), which are many times
    as fast in float64.
    """

    def gradients(variables: PyTree, inputs: PyTree, labels: PyTree) -> dict[str, Array]:
        common = (model, variables, inputs, labels)
        return _derivatives(*common, sites, {"reference": loss}, derivative, "fast", batched, **kwargs)["reference"]

    compiled: dict[Any, Callable[..., Any]] = {}

    def run(variables: PyTree, inputs: PyTree, labels: PyTree) -> dict[str, np.ndarray]:
        size = taps.batch_size(inputs)
        if size not in compiled:
            compiled[size] = jax.jit(rewritten(doubled(gradients, variables, inputs, labels), shifted))
        with jax.enable_x64(True), jax.default_device(_home()):
            return jax.device_get(compiled[size](*jax.tree.map(on_host, (variables, inputs, labels))))

    return run


def against(
    exact: Gradients,
    computed: Callable[[PyTree, PyTree, PyTree], dict[str, dict[str, Array]]],
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    chunk: int = 20,
    batched: bool = False,
) -> dict[str, dict[str, SignHealth]]:
    """{name: {site: SignHealth}} of the derivatives that `computed` gives by name, compared with `exact`, in chunks.

    Where a chunk is no batch (`batched`), the last one is filled up with samples before it, which are not counted
    again: one of another size would be compiled anew.
    """
    totals: dict[str, dict[str, np.ndarray]] = {}
    size = taps.batch_size(inputs)
    for start in range(0, size, chunk):
        first = start if batched else max(0, min(start, size - chunk))
        part, answers = jax.tree.map(lambda leaf, s=first: leaf[s : s + chunk], (inputs, labels))
        true = exact(variables, part, answers)
        for name, by_site in jax.device_get(computed(variables, part, answers)).items():
            for site, found in by_site.items():
                total = totals.setdefault(name, {}).setdefault(site, np.zeros(7, np.int64))
                own = slice(start - first, None)
                total += _counts(true[site][own], np.asarray(found)[own], float(jnp.finfo(found.dtype).tiny))
    return {name: {site: _health(total) for site, total in of.items()} for name, of in totals.items()}


def _counts(true: np.ndarray, found: np.ndarray, tiny: float) -> np.ndarray:
    """Counts of a chunk at a site: wrong, zeroed, underflowed, truly nonzero, unresolved, with a sign, not finite."""
    sign, seen = np.sign(true), np.nan_to_num(np.sign(found).astype(np.float64))
    largest = np.abs(true).max(axis=tuple(range(1, true.ndim)), keepdims=True)
    small = np.abs(true) <= RESOLUTION * largest
    which = (
        *(sign * seen < 0, (seen == 0) & (sign != 0), (np.abs(true) < tiny) & (sign != 0), sign != 0),
        *(small & (seen != 0), seen != 0, ~np.isfinite(found.astype(np.float64))),
    )
    return np.asarray([each.sum() for each in which])


def _health(total: np.ndarray) -> SignHealth:
    with np.errstate(invalid="ignore"):
        (wrong, zeroed, underflowed), unresolved = (total[:3] / total[3]).tolist(), float(total[4] / total[5])
    return SignHealth(wrong, zeroed, underflowed, unresolved, int(total[6]))


def _home() -> jax.Device:
    """The device on which double precision is computed."""
    device = jax.local_devices()[0]
    return device if device.platform == "gpu" else jax.local_devices(backend="cpu")[0]
