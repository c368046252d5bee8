"""What a recorder does at each recording, and all that stays fixed meanwhile: pure functions, compiled once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from neuron_mech import taps
from neuron_mech.config import Derivative
from neuron_mech.errors import InputError
from neuron_mech.precision import Precision
from neuron_mech.recording import auditing, counting
from neuron_mech.recording.auditing import SignHealth
from neuron_mech.recording.chunks import in_chunks
from neuron_mech.recording.counting import Tally
from neuron_mech.taps import PerSampleLoss, Site


@dataclass(frozen=True, eq=False)
class Design:
    """What stays fixed while recording. Static under jit, and equal only to itself."""

    model: nn.Module
    loss: PerSampleLoss
    sites: Mapping[str, Site]
    neurons: Mapping[str, np.ndarray | None]
    """Indices of the recorded neurons by site, ascending; None for all."""
    positions: Mapping[str, np.ndarray | None]
    """The same of positions, in row-major order."""
    derivative: Derivative
    precision: Precision
    batched: bool
    """Whether samples share batches, rather than each being alone in one."""
    kwargs: Mapping[str, Any]
    """What else `model.apply` is given."""
    recordings: int
    chunk: int
    keeps: tuple[int, ...]
    """Recordings at which pre-activations are kept."""
    stepwise: bool
    """Whether chunks are driven from the host (see `training.stepwise`)."""
    shapes: PyTree
    """Of the variables."""

    def chosen(self, site: str, values: Array) -> Array:
        """Of (batch, positions ..., neurons), the recorded positions and neurons."""
        neurons, positions = self.neurons[site], self.positions[site]
        if positions is not None:
            values = values.reshape(len(values), -1, values.shape[-1])[:, positions]
        return values if neurons is None else values[..., neurons]

    def value_shape(self, site: str) -> tuple[int, ...]:
        """Shape of one sample's recorded values."""
        shape = (1, *self.sites[site].shape)
        return jax.eval_shape(partial(self.chosen, site), jax.ShapeDtypeStruct(shape, jnp.int8)).shape[1:]

    def indices(self, site: str) -> Int[np.ndarray, " neurons"]:
        """The recorded neurons of a site, as indices into all of its neurons."""
        chosen = self.neurons[site]
        return np.arange(self.sites[site].shape[-1]) if chosen is None else chosen

    def gradients(self, variables: PyTree, inputs: PyTree, labels: PyTree) -> dict[str, Array]:
        """{site: every sample's derivative at the recorded positions and neurons}. Pure."""
        objectives = {"loss": self.loss}
        common = (self.model, variables, inputs, labels)
        how = (objectives, self.derivative, self.precision)
        if self.batched:
            perturbations = taps.zeros(self.sites, taps.batch_size(inputs))
            found = taps.activation_gradients(*common, perturbations, *how, **self.kwargs)
        else:
            found = taps.per_sample_gradients(*common, self.sites, *how, **self.kwargs)
        return {site: self.chosen(site, gradient) for site, gradient in found["loss"].items()}

    def read(self, variables: PyTree, inputs: PyTree) -> dict[str, Array]:
        """{site: pre-activations at the recorded positions and neurons}. Pure."""
        found = taps.read(self.model, variables, inputs, tuple(self.sites), **self.kwargs)[1]
        return {site: self.chosen(site, values) for site, values in found.items()}

    def audit(self, variables: Mapping[str, Any], inputs: PyTree, labels: PyTree) -> dict[str, SignHealth]:
        """{site: shares of these samples' signs that double precision contradicts}; see `Recorder.audit`."""
        return auditing.sign_health(
            self.model,
            variables,
            inputs,
            labels,
            self.sites,
            {"loss": self.loss},
            self.loss,
            self.derivative,
            self.precision,
            **self.kwargs,
        )["loss"]

    def check(self, variables: PyTree) -> None:
        """Raise InputError where variables are not of the shapes that the recorder was made for."""
        here = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
        made = {
            jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(self.shapes)
        }
        for name in sorted(here.keys() | made.keys()):
            if here.get(name) != made.get(name):
                there, now = (list(at[name]) if name in at else "nothing" for at in (made, here))
                raise InputError(
                    f"update was given variables of other shapes than the recorder was made for: {name} is {now}, was "
                    f"{there}: pass what model.apply takes, {{'params': ...}} and all, and make a new recorder for "
                    "another network"
                )

    @cached_property
    def compiled_chunk(self) -> Callable[..., dict[str, Tally]]:
        """`count_chunk`, compiled."""
        return jax.jit(partial(count_chunk, self), static_argnames="size", donate_argnums=0)

    @cached_property
    def compiled_record(self) -> Callable[..., dict[str, Tally]]:
        """`record`, compiled."""
        return jax.jit(partial(record, self), donate_argnums=0)

    @cached_property
    def compiled_keep(self) -> Callable[..., dict[str, Array]]:
        """`keep`, compiled."""
        return jax.jit(partial(keep, self), donate_argnums=0)


def count_chunk(
    design: Design,
    tallies: dict[str, Tally],
    variables: PyTree,
    inputs: PyTree,
    labels: PyTree,
    start: Int[Array | np.integer, ""] | int,
    size: int,
) -> dict[str, Tally]:
    """One recording of the rows from `start` on. Pure."""
    part = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), (inputs, labels))
    gradients = design.gradients(variables, *part)
    return {site: counting.update_rows(tally, gradients[site], start) for site, tally in tallies.items()}


def record(
    design: Design, tallies: dict[str, Tally], variables: PyTree, inputs: PyTree, labels: PyTree
) -> dict[str, Tally]:
    """One recording of all rows, chunk by chunk. Pure."""

    def step(part: dict[str, Tally], start: Array, size: int) -> dict[str, Tally]:
        return count_chunk(design, part, variables, inputs, labels, start, size)

    return in_chunks(step, tallies, 0, taps.batch_size(inputs), design.chunk)


def keep(design: Design, kept: dict[str, Array], count: Array, variables: PyTree, inputs: PyTree) -> dict[str, Array]:
    """Pre-activations of all rows, in their place. Pure."""
    row = jnp.searchsorted(jnp.asarray(design.keeps), count)

    def step(part: dict[str, Array], start: Array, size: int) -> dict[str, Array]:
        found = design.read(
            variables, jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), inputs)
        )
        where = lambda before: (row, start, *(0,) * (before.ndim - 2))  # noqa: E731
        return {
            site: jax.lax.dynamic_update_slice(before, found[site][None].astype(before.dtype), where(before))
            for site, before in part.items()
        }

    return in_chunks(step, kept, 0, taps.batch_size(inputs), design.chunk)
