"""Predictions of the final categories from the untrained network.

There are two: the sign of every sample's own derivative; and the weights from a neuron to the right class's logit, for
which a sample counts by its class only.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neuron_mech import taps
from neuron_mech.config import Derivative
from neuron_mech.runs.study import Study, beside
from neuron_mech.taps import Site
from neuron_mech.training import TrainState
from neuron_mech.training.datasets import Samples


def first_categories(study: Study, state: TrainState) -> dict[str, Int[Array, "samples *positions neurons"]]:
    """{site: the category each pair would have by its first recording alone}, dropout off.

    `state` is that before the first step.
    """
    found = beside(study, recordings=1).update(state.variables)
    return {site: found.partition(site) for site in study.sites}


def weights_to_logits(
    model: nn.Module,
    variables: Mapping[str, Any],
    sites: Mapping[str, Site],
    samples: Samples,
    classes: int,
    derivative: Derivative = "activation",
    chunk: int = 100,
) -> dict[str, Float[Array, "classes *positions neurons"]]:
    """{site: mean over `samples` of d logit_c / d activation}, for every class c.

    At the layer before the logits this is the output layer's kernel, whatever the samples. Further away it follows all
    paths from the neuron to the logit, each weighted by how often it is open.
    """

    @jax.jit
    def total(part: Samples) -> dict[str, jax.Array]:
        logits = {str(c): lambda out, _, c=c: out[:, c] for c in range(classes)}
        found = taps.activation_gradients(
            model, variables, part.inputs, part.labels, taps.zeros(sites, len(part)), logits, derivative
        )
        return {site: jnp.stack([found[str(c)][site].sum(0) for c in range(classes)]) for site in sites}

    parts = [total(samples.rows(np.arange(s, min(s + chunk, len(samples))))) for s in range(0, len(samples), chunk)]
    return {site: sum(part[site] for part in parts) / len(samples) for site in sites}
