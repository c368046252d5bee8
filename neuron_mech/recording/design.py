"""The fixed part of a recorder, and what it does at each recording: pure functions, compiled once.

Sites may record different numbers of samples: each site records the first of one common order. So one forward pass
serves every site that records a sample, and no derivative is computed that no site records.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from neuron_mech import taps
from neuron_mech.cluster import devices
from neuron_mech.config import Derivative
from neuron_mech.errors import InputError
from neuron_mech.precision import Precision
from neuron_mech.recording import auditing, counting, keeping
from neuron_mech.recording.auditing import SignHealth
from neuron_mech.recording.chunks import in_chunks
from neuron_mech.recording.counting import Tally
from neuron_mech.taps import PerSampleLoss, Site, random_keys

Tallies = dict[str, dict[str, Tally]]
"""{loss: {site: Tally}}"""


class Samples(NamedTuple):
    """The recorded samples in the order of the tallies' rows, and by site the position at which each is watched."""

    inputs: PyTree
    labels: PyTree
    places: dict[str, Any]


class Moment(NamedTuple):
    """The network at one recording: its variables, and the number that is folded into random keys."""

    variables: PyTree
    number: Any


class Group(NamedTuple):
    """Rows `start` to `stop` of a device, which are recorded at the same sites."""

    start: int
    stop: int
    sites: tuple[str, ...]


def as_they_are(inputs: PyTree) -> PyTree:
    """The inputs unchanged: the default of `Design.prepare`."""
    return inputs


@dataclass(frozen=True, eq=False)
class Design:
    """The fixed part of a recorder. Static under jit, and equal only to itself."""

    model: nn.Module
    losses: Mapping[str, PerSampleLoss]
    """By name; the first is the main one, the default of methods that take a loss."""
    sites: Mapping[str, Site]
    rows: Mapping[str, int]
    """Number of recorded samples by site: the first of them."""
    neurons: Mapping[str, np.ndarray | None]
    """Indices of the recorded neurons by site, ascending; None for all."""
    positions: Mapping[str, np.ndarray | None]
    """Flat indices of the recorded positions by site, ascending; None for all."""
    derivative: Derivative
    precision: Precision
    recordings: int
    chunk: int
    """Samples in one forward pass."""
    mesh: Mesh
    stepwise: bool
    """Whether chunks are driven from the host (see `training.stepwise`)."""
    shapes: PyTree = field(repr=False)
    """Shapes of the variables."""
    batched: bool = False
    """Whether the samples of a chunk are one batch, instead of a batch of one each."""
    keeps: tuple[int, ...] = ()
    """Recordings at which pre-activations are kept."""
    prepare: Callable[[PyTree], PyTree] = field(default=as_they_are, repr=False)
    """The function that makes the model's inputs from stored ones, such as floats from bytes; applied to each chunk."""
    rngs: Mapping[str, Array] | None = None
    """Random keys for models with random layers; each recording and sample gets its own by folding."""
    kwargs: Mapping[str, Any] | None = None
    """Further arguments of `model.apply`."""
    halves: Mapping[str, float] | None = None
    """For losses whose derivatives are stored as float16 before their sign is taken: a factor applied before."""

    @property
    def main(self) -> str:
        """The name of the main loss."""
        return next(iter(self.losses))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `model.apply` beside variables and inputs, with unfolded random keys."""
        return dict(self.kwargs or {}) | ({"rngs": dict(self.rngs)} if self.rngs else {})

    def chosen(self, site: str, values: Array) -> Array:
        """The recorded positions and neurons of values (batch, positions ..., neurons)."""
        neurons, positions = self.neurons[site], self.positions[site]
        if positions is not None:
            values = values.reshape(len(values), -1, values.shape[-1])[:, positions]
        return values if neurons is None else values[..., neurons]

    def value_shape(self, site: str) -> tuple[int, ...]:
        """Shape of one sample's recorded values: (positions ..., neurons)."""
        shape = (1, *self.sites[site].shape)
        return jax.eval_shape(partial(self.chosen, site), jax.ShapeDtypeStruct(shape, jnp.int8)).shape[1:]

    def indices(self, site: str) -> Int[np.ndarray, " neurons"]:
        """The recorded neurons of a site, as indices into all of its neurons."""
        chosen = self.neurons[site]
        return np.arange(self.sites[site].shape[-1]) if chosen is None else chosen

    def empty(self) -> Tallies:
        """The tallies before the first recording, of all samples in their order."""
        return {
            loss: {
                site: counting.empty((self.rows[site], *self.value_shape(site)), self.recordings) for site in self.sites
            }
            for loss in self.losses
        }

    def blank_kept(self) -> dict[str, Array]:
        """Zeros for the kept pre-activations by site: (samples, kept recordings, neurons)."""
        if not self.keeps:
            return {}
        shape = lambda site: (self.rows[site], len(self.keeps), len(self.indices(site)))  # noqa: E731
        return {site: jnp.zeros(shape(site), at.dtype) for site, at in self.sites.items()}

    def groups(self) -> list[Group]:
        """A device's rows grouped by the sites that record them, in order; the first are recorded by all sites."""
        rows = {site: devices.share(count, self.mesh.size) for site, count in self.rows.items()}
        return [
            Group(start, stop, tuple(site for site in self.sites if rows[site] >= stop))
            for start, stop in itertools.pairwise([0, *sorted(set(rows.values()))])
        ]

    def chunks(self) -> Iterator[tuple[Group, int, int]]:
        """(group, first row, number of samples) of every chunk of a recording that runs as a loop on the host."""
        for group in self.groups():
            for start in range(group.start, group.stop, self.chunk):
                yield group, start, min(self.chunk, group.stop - start)

    def gradients(
        self,
        variables: PyTree,
        inputs: PyTree,
        labels: PyTree,
        number: Any = None,
        start: Any = 0,
        at: tuple[str, ...] = (),
    ) -> dict[str, dict[str, Array]]:
        """{loss: {site: every sample's derivative}}, at the sites `at` or at all. Pure.

        Inputs are as the model takes them. Random keys are folded with the recording's `number` and each sample's
        row, the first of which is `start`; a batch's with `start` alone.
        """
        sites = {site: self.sites[site] for site in at or self.sites}
        kwargs = self.arguments
        keys = dict(self.rngs or {})
        for fold in () if number is None else (number, start) if self.batched else (number,):
            variables, keys = random_keys.folded(variables, keys, fold)
        if keys:
            kwargs["rngs"] = keys
        common, how = (self.model, variables, inputs, labels), (self.losses, self.derivative, self.precision)
        if self.batched:
            perturbations = taps.zeros(sites, taps.batch_size(inputs))
            return taps.activation_gradients(*common, perturbations, *how, **kwargs)
        return taps.per_sample_gradients(
            *common, sites, *how, ids=start + jnp.arange(taps.batch_size(inputs)), **kwargs
        )

    def record_chunk(
        self,
        tallies: Tallies,
        samples: Samples,
        moment: Moment,
        start: Int[Array | np.integer, ""] | int,
        size: int,
    ) -> Tallies:
        """One recording of `size` rows from `start` on, at the sites in `tallies`. Pure."""
        part = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size)  # noqa: E731
        inputs, labels = jax.tree.map(part, (samples.inputs, samples.labels))
        at = tuple(site for site in self.sites if site in tallies[self.main])
        found = self.gradients(moment.variables, self.prepare(inputs), labels, moment.number, start, at)
        return {
            loss: {
                site: counting.update_rows(tally, self.stored(loss, self.chosen(site, found[loss][site])), start)
                for site, tally in by_site.items()
            }
            for loss, by_site in tallies.items()
        }

    def stored(self, loss: str, derivative: Array) -> Array:
        """A loss's derivatives as stored before their sign is taken: unchanged, or as float16 (see `halves`)."""
        share = (self.halves or {}).get(loss)
        return derivative if share is None else (derivative * share).astype(jnp.float16)

    def record(self, tallies: Tallies, samples: Samples, moment: Moment) -> Tallies:
        """One recording of all rows, chunk by chunk, so that memory does not grow with their number. Pure."""
        for group in self.groups():

            def step(part: Tallies, start: Array, size: int) -> Tallies:
                return self.record_chunk(part, samples, moment, start, size)

            mine = {loss: {site: of[site] for site in group.sites} for loss, of in tallies.items()}
            part = in_chunks(step, mine, group.start, group.stop, self.chunk)
            tallies = {loss: by_site | part[loss] for loss, by_site in tallies.items()}
        return tallies

    @cached_property
    def compiled_chunk(self) -> Callable[..., Tallies]:
        """`record_chunk` of every device's own rows, compiled. The tallies are donated."""

        def chunk(tallies: Tallies, samples: Samples, moment: Moment, start: Array, size: int) -> Tallies:
            def own(mine: tuple[Tallies, Samples], shared: tuple[Moment, Array]) -> Tallies:
                return self.record_chunk(mine[0], mine[1], shared[0], shared[1], size)

            return devices.each(own, self.mesh)((tallies, samples), (moment, start))

        return jax.jit(chunk, static_argnames="size", donate_argnums=0)

    @cached_property
    def compiled_record(self) -> Callable[[Tallies, Samples, Moment], Tallies]:
        """`record` of every device's own rows, compiled. The tallies are donated."""
        return jax.jit(self.record_each, donate_argnums=0)

    @cached_property
    def compiled_keep(self) -> Callable[..., dict[str, Array]]:
        """`keeping.keep` of every device's own rows, compiled. The kept pre-activations are donated."""
        return jax.jit(self.keep_each, donate_argnums=0)

    def record_each(self, tallies: Tallies, samples: Samples, moment: Moment) -> Tallies:
        """`record` on each device for its own rows. Pure."""
        return devices.each(lambda own, now: self.record(own[0], own[1], now), self.mesh)((tallies, samples), moment)

    def keep_each(self, kept: dict[str, Array], samples: Samples, moment: Moment) -> dict[str, Array]:
        """`keeping.keep` on each device for its own rows. Pure."""
        return devices.each(lambda own, now: keeping.keep(self, own[0], own[1], now), self.mesh)(
            (kept, samples), moment
        )

    def audit(self, variables: PyTree, inputs: PyTree, labels: PyTree, loss: str = "") -> dict[str, SignHealth]:
        """{site: SignHealth} of a loss, by default the main one; see `Recorder.audit`."""
        of = {"": self.losses[loss or self.main]}
        common = (self.model, variables, self.prepare(inputs), labels, self.sites)
        how = (of, of[""], self.derivative, self.precision)
        return auditing.sign_health(*common, *how, batched=self.batched, **self.arguments)[""]

    def check(self, variables: PyTree) -> None:
        """Raise InputError where the variables' shapes are not those that the recorder was made for."""
        leaves = (jax.tree_util.tree_leaves_with_path(tree) for tree in (variables, self.shapes))
        here, made = ({jax.tree_util.keystr(path): leaf.shape for path, leaf in of} for of in leaves)
        for name in sorted(here.keys() | made.keys()):
            if here.get(name) != made.get(name):
                there, now = (list(at[name]) if name in at else "nothing" for at in (made, here))
                raise InputError(
                    f"update was given variables of other shapes than the recorder was made for: {name} is {now}, was "
                    f"{there}: pass what model.apply takes, {{'params': ...}} and all, and make a new recorder for "
                    "another network"
                )
