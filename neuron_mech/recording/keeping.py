"""Keeping pre-activations at some recordings: of the same batches, with the same noise, as the derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array

from neuron_mech.recording import watching
from neuron_mech.recording.chunks import in_chunks
from neuron_mech.taps import random_keys

if TYPE_CHECKING:
    from neuron_mech.recording.design import Design, Moment, Samples


def keep(design: Design, kept: dict[str, Array], samples: Samples, moment: Moment) -> dict[str, Array]:
    """The kept pre-activations of a device's rows, with those of this recording (one of `keeps`) added. Pure."""
    row = jnp.searchsorted(jnp.asarray(design.keeps), moment.number)
    neurons = {site: design.indices(site) for site in design.sites}
    variables, keys = random_keys.folded(moment.variables, dict(design.rngs or {}), moment.number)
    arguments = {**design.arguments, **({"rngs": keys} if keys else {})}

    def put(values: Array, into: Array, start: Array | int) -> Array:
        return jax.lax.dynamic_update_slice(into, values[:, None].astype(into.dtype), (start, row, 0))

    if not design.batched:
        common = (design.model, variables, samples.inputs, samples.places, neurons)
        values, _ = watching.read(*common, design.chunk, design.prepare, **arguments)
        return {site: put(values[site], into, 0) for site, into in kept.items()}

    def step(part: dict[str, Array], start: Array, size: int) -> dict[str, Array]:
        cut = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size)  # noqa: E731
        inputs, places = jax.tree.map(cut, (samples.inputs, {site: samples.places[site] for site in part}))
        common = (design.model, variables, design.prepare(inputs), places, neurons)
        values = watching.read_batch(*common, start, **arguments)
        return {site: put(values[site], into, start) for site, into in part.items()}

    for group in design.groups():
        part = {site: kept[site] for site in group.sites}
        part = in_chunks(step, part, group.start, group.stop, design.chunk)
        kept = {**kept, **part}
    return kept
