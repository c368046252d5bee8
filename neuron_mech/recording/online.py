"""A recorder of the derivatives that training computes anyway: of each batch, in the pass that trains on it.

recorder = neuron_mech.online(model, variables, images[:8], "Dense_*", samples=len(images), recordings=epochs)

def loss(params, perturbations):
    outputs = recorder.perturbed(perturbations)({"params": params}, batch.images)
    return per_sample(outputs, batch.labels).mean()

gradients, signs = jax.grad(loss, argnums=(0, 1))(params, recorder.perturbations(len(batch.ids)))
recorder = recorder.saw(signs, batch.ids)      # in the jitted step
...
recorder = recorder.end_epoch()                # from time to time, outside
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int, PyTree

from neuron_mech import taps
from neuron_mech.cluster import memory
from neuron_mech.config import Derivative
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.precision import Arithmetic, Precision, multiplying
from neuron_mech.recording import counting, summaries
from neuron_mech.recording.counting import Tally
from neuron_mech.recording.summaries import Recorded
from neuron_mech.taps import Site, sample_mixing
from neuron_mech.taps.naming import Names, in_reach, selected


@dataclass(frozen=True, eq=False)
class OnlineDesign:
    """What stays fixed while recording. Static under jit, and equal only to itself."""

    model: nn.Module
    sites: Mapping[str, Site]
    derivative: Derivative
    precision: Precision
    recordings: int
    """Of one sample, at most."""
    samples: int
    room: int
    """Rows that fit between two counts."""


class Online(struct.PyTreeNode):
    """Counts of signs by sample, and the signs that have been seen but not counted yet. Made by `online`.

    Signs wait as bytes, in the order in which they come: writing one byte a step and counting once an epoch costs a
    third of reading and writing three scattered counts a step.
    """

    tallies: dict[str, Tally]
    """By site; each of shape (samples, positions ..., neurons)."""
    waiting: dict[str, Int[Any, room * values]]
    ids: Int[Any, " room"]
    """Whose the waiting signs are."""
    filled: Int[Any, ""]
    """Rows that wait."""
    most: Int[Any, ""]
    """Recordings of any one sample so far, at most."""
    design: OnlineDesign = struct.field(pytree_node=False)

    def perturbations(self, batch: int) -> dict[str, Array]:
        """Zeros for a batch of so many samples, to differentiate the loss with respect to."""
        return taps.zeros(self.design.sites, batch)

    def perturbed(self, perturbations: Mapping[str, Array]) -> Callable[..., Any]:
        """`model.apply` with the perturbations at their sites, and in the recorder's precision, its derivatives too."""
        apply = taps.perturbed(self.design.model, perturbations, self.design.derivative)
        arithmetic: Arithmetic = "float32" if self.design.precision == "exact" else "default"

        def run(*args: Any, **kwargs: Any) -> Any:
            with multiplying(arithmetic):
                return apply(*args, **kwargs)

        return run

    def saw(self, gradients: Mapping[str, Array], ids: Int[Array | np.ndarray, " batch"]) -> Online:
        """The recorder after a batch with these derivatives, of these samples. Pure, for the jitted step; donate it.

        Raises InputError where sites or batch are not its own.
        """
        if gradients.keys() != self.waiting.keys():
            raise InputError(f"gradients are of {sorted(gradients)}, the recorder's sites {sorted(self.waiting)}")
        for site, gradient in gradients.items():
            if gradient.shape != (len(ids), *self.design.sites[site].shape):
                raise InputError(
                    f"gradients at {site!r} have shape {list(gradient.shape)}, but {len(ids)} ids came with them: give "
                    "the ids of the batch that was trained on"
                )
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise InputError(f"ids are {ids.dtype}: give the samples' row numbers in the training set, integers")
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=self.filled, axis=0)
        sign = lambda g: (g > 0).astype(jnp.int8) - (g < 0).astype(jnp.int8)  # noqa: E731
        return self.replace(
            waiting={site: put(before, sign(gradients[site])) for site, before in self.waiting.items()},
            ids=put(self.ids, jnp.asarray(ids, jnp.int32)),
            filled=self.filled + len(ids),
        )

    def end_epoch(self) -> Online:
        """The recorder with all waiting signs counted; what it was made from is used up. Not for `jit`.

        A sample that came more than once is counted each time, in order. Raises InputError where more came than there
        is room for, where an id is none, or where the counts would overflow.
        """
        filled, design = int(self.filled), self.design
        if filled > design.room:
            raise InputError(
                f"{filled} samples came since the last end_epoch, and there is room for {design.room}: call it more "
                "often, or make the recorder with more room="
            )
        ids = np.asarray(self.ids[:filled])
        if filled and not (ids.min() >= 0 and ids.max() < design.samples):
            wrong = ids[(ids < 0) | (ids >= design.samples)][0]
            raise InputError(f"sample {wrong} came, but the recorder was made for samples={design.samples}")
        # The how-manieth time each row's sample comes: one pass over the tallies for each.
        order = np.argsort(ids, kind="stable")
        first = np.searchsorted(ids[order], ids[order])
        time = np.empty(filled, int)
        time[order] = np.arange(filled) - first
        passes = int(time.max()) + 1 if filled else 0
        most = int(self.most) + passes
        if most > design.recordings:
            raise InputError(
                f"a sample has come {most} times, but the recorder was made for recordings={design.recordings}: its "
                "counts would overflow; make it with as many as there will be"
            )
        tallies = self.tallies
        for now in range(passes):
            rows = np.full(design.samples, -1, np.int32)
            rows[ids[time == now]] = np.flatnonzero(time == now)
            tallies = _count(tallies, self.waiting, rows)
        zero = jnp.zeros((), jnp.int32)
        return self.replace(tallies=tallies, filled=zero, most=jnp.asarray(most, jnp.int32))

    @property
    def recorded(self) -> dict[str, Recorded]:
        """The tallies with the neurons they are of: what `summaries` takes. Raises InputError while signs wait."""
        if int(self.filled):
            raise InputError(f"{int(self.filled)} samples' signs have not been counted: call end_epoch first")
        neurons = {site: np.arange(at.shape[-1]) for site, at in self.design.sites.items()}
        return {summaries.in_files(s): Recorded(tally, neurons[s], s) for s, tally in self.tallies.items()}

    def signs(self, seed: int = 0) -> xr.Dataset:
        """What gradient_signs.nc holds of a run, for figures 1 and 5 (`figures.average_sign_histograms`)."""
        rng = np.random.default_rng(seed)
        shown = {site: int(rng.choice(at.neurons)) for site, at in self.recorded.items()}
        return summaries.of_signs(self.recorded, int(self.most), shown)


@partial(jax.jit, donate_argnums=0)
def _count(tallies: dict[str, Tally], waiting: dict[str, Array], rows: Int[Array | np.ndarray, " samples"]) -> Any:
    """One more recording of the samples that have a row; the others' signs are zero, which count as nothing."""

    def sign(signs: Array) -> Array:
        there = (rows >= 0).reshape(-1, *(1,) * (signs.ndim - 1))
        return jnp.where(there, signs[jnp.maximum(rows, 0)], 0)

    return {site: counting.update(tally, sign(waiting[site])) for site, tally in tallies.items()}


def online(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    names: Names = "all",
    *,
    samples: int,
    recordings: int,
    derivative: Derivative | None = None,
    precision: Precision = "exact",
    room: int | None = None,
    mixing: Literal["refuse", "batch"] = "refuse",
    **kwargs: Any,
) -> Online:
    """An online recorder for training samples numbered 0 to `samples` - 1; `inputs` are a few of them, for shapes.

    `recordings` is how often any one sample will come, at most: the number of epochs. `room` is how many samples may
    come between two calls of `end_epoch`: an epoch and a tenth unless said. `kwargs` go to `model.apply`, as in
    training. Derivatives are the batch's own: where its samples mix (batch statistics), `mixing="batch"` says that this
    is meant. `precision` is of the training step itself, whose derivatives these are: "exact", float32 on any device,
    several times slower on a GPU or TPU; or "fast", as the device multiplies by default, with some wrong signs.

    Raises InputError where samples mix, or where the device has no room, and SiteError for what is no site.
    """
    sites = selected(model, variables, inputs, names, **kwargs)
    summaries.check_names(sites)
    if mixing != "batch" and (layers := sample_mixing.mixing_layers(model, variables, inputs, **kwargs)):
        raise InputError(
            f"samples of a batch mix in {', '.join(layers)}, so that a derivative is not one sample's own. Ways out: "
            "mixing='batch', to record them as training sees them, knowingly; neuron_mech.recorder, which can use "
            "running statistics; or a network without batch statistics"
        )
    room = samples + max(samples // 10, 1024) if room is None else room
    values = sum(math.prod(site.shape) for site in sites.values())
    need = values * (3 * counting.count_type(recordings).itemsize * samples + room)
    if need > (free := memory.free_memory()[0]):
        raise InputError(
            f"counts and waiting signs need {memory.size(need)} on the device and {memory.size(free)} are free: "
            "name fewer sites, give less room= and call end_epoch more often, or count fewer samples with "
            "neuron_mech.recorder"
        )
    return Online(
        {name: counting.empty((samples, *site.shape), recordings) for name, site in sites.items()},
        {name: jnp.zeros((room, *site.shape), jnp.int8) for name, site in sites.items()},
        jnp.zeros(room, jnp.int32),
        jnp.zeros((), jnp.int32),
        jnp.zeros((), jnp.int32),
        OnlineDesign(model, sites, derivative or in_reach(sites), precision, recordings, samples, room),
    )
