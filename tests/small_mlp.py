"""The dense network of the digits, small and untrained, and codes of its values."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from neuron_mech.codes import quantization, sources
from neuron_mech.config import PRESETS, Model
from neuron_mech.runs import planning

CONFIG = replace(PRESETS["digits"], model=Model(width=1 / 16), train=replace(PRESETS["digits"].train, epochs=3))


def studied(data):
    """(study, variables)."""
    study, state = planning.study(CONFIG, data)
    return study, state.variables


def codes_at(study, variables, digits, site, ranks=(20, 50, 80)):
    return quantization.at_ranks(jnp.asarray(values_at(study, variables, digits, site)), ranks)


def values_at(study, variables, digits, site):
    source, key = sources.network(study.model, variables, study.sites), jax.random.key(0)
    return sources.chosen_values(source, digits.train, key, {site: key})[site].values
