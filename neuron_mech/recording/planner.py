"""What a recorder will count and what that will cost, checked and said before anything is recorded."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from neuron_mech import taps, training
from neuron_mech.cluster import memory
from neuron_mech.config import Derivative
from neuron_mech.errors import InputError
from neuron_mech.precision import Precision
from neuron_mech.recording import counting, summaries
from neuron_mech.recording.checks import (
    LOOKED_AT,
    Mixing,
    check_apply,
    check_labels_fit,
    check_loss,
    check_mixing,
    warn_of_signs,
)
from neuron_mech.recording.choices import Choice, chosen
from neuron_mech.recording.design import Design
from neuron_mech.recording.recorder import Recorder
from neuron_mech.taps import PerSampleLoss
from neuron_mech.taps.naming import Names, in_reach, selected
from neuron_mech.taps.objectives import margin


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be recorded, and the bytes it takes. Print it; `recorder` begins."""

    design: Design
    variables: Mapping[str, Any]
    inputs: PyTree
    labels: PyTree
    rows: np.ndarray
    """Which samples of the user's are recorded."""

    @property
    def counts(self) -> int:
        """Bytes of the tallies: samples x recorded values x three counts of the smallest sufficient type."""
        kind = counting.count_type(self.design.recordings).itemsize
        return 3 * kind * len(self.rows) * self._values

    @property
    def kept(self) -> int:
        """Bytes of pre-activations kept."""
        types = (np.dtype(site.dtype).itemsize for site in self.design.sites.values())
        values = (math.prod(self.design.value_shape(site)) for site in self.design.sites)
        rows = len(self.design.keeps) * len(self.rows)
        return rows * sum(size * count for size, count in zip(types, values, strict=True))

    @property
    def samples(self) -> int:
        """Bytes of the recorded samples themselves, on the device."""
        leaves = jax.tree.leaves((self.inputs, self.labels))
        return sum(leaf.nbytes // max(len(leaf), 1) for leaf in leaves) * len(self.rows)

    @property
    def working(self) -> int:
        """Bytes of a chunk's values, gradients and signs at the sites; the network's own pass comes on top."""
        sizes = (np.dtype(site.dtype).itemsize * math.prod(site.shape) for site in self.design.sites.values())
        return 3 * min(self.design.chunk, len(self.rows)) * sum(sizes)

    @property
    def device(self) -> int:
        """Bytes on the device, of all these."""
        return self.counts + self.kept + self.samples + self.working

    @property
    def checkpoint(self) -> int:
        """Bytes on disk of one saved recorder, without its samples."""
        return self.counts + self.kept

    @property
    def _values(self) -> int:
        return sum(math.prod(self.design.value_shape(site)) for site in self.design.sites)

    def samples_within(self, budget: int) -> int:
        """How many samples fit into so many bytes on the device, all else as it is; 0 where none does."""
        # Working memory grows with the samples up to a whole chunk of them.
        chunk = min(self.design.chunk, len(self.rows))
        working, each = self.working // chunk, (self.device - self.working) // len(self.rows)
        part = budget // (each + working)
        return min(len(self.rows), part if part < chunk else (budget - self.working) // each)

    def seconds(self) -> float:
        """Estimated seconds of one recording, from one chunk that is recorded for it: compiled first, then timed."""
        design, size = self.design, min(self.design.chunk, len(self.rows))
        part = jax.tree.map(lambda leaf: jnp.asarray(leaf)[self.rows[:size]], (self.inputs, self.labels))
        run = jax.jit(design.gradients)
        jax.block_until_ready(run(self.variables, *part))
        start = time.perf_counter()
        jax.block_until_ready(run(self.variables, *part))
        return (time.perf_counter() - start) * len(self.rows) / size

    def __str__(self) -> str:
        sites = ", ".join(
            f"{site} ({len(self.rows):,} samples x {math.prod(self.design.value_shape(site)):,} values)"
            for site in self.design.sites
        )
        return (
            f"{self.design.recordings:,} recordings of {sites}: {memory.size(self.device)} on the device, "
            f"{memory.size(self.counts)} of them counts; {memory.size(self.checkpoint)} in a checkpoint"
        )

    def recorder(self) -> Recorder:
        """The recorder before its first recording. Raises InputError where the device has no room for it."""
        room, _ = memory.free_memory()
        if self.device > room:
            fit = self.samples_within(room)
            raise InputError(
                f"recording needs {memory.size(self.device)} on the device and {memory.size(room)} are free: "
                f"samples={fit} would fit; or record fewer neurons, positions or sites, or keep less"
            )
        design, rows = self.design, self.rows
        inputs, labels = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], (self.inputs, self.labels))
        shapes = {site: (len(rows), *design.value_shape(site)) for site in design.sites}
        kept = {s: jnp.zeros((len(design.keeps), *shape), design.sites[s].dtype) for s, shape in shapes.items()}
        return Recorder(
            {site: counting.empty(shape, design.recordings) for site, shape in shapes.items()},
            jnp.zeros((), jnp.int32),
            kept if design.keeps else {},
            inputs,
            labels,
            jnp.asarray(rows),
            design,
        )


def plan(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    names: Names = "all",
    *,
    recordings: int,
    loss: PerSampleLoss = margin,
    derivative: Derivative | None = None,
    precision: Precision = "exact",
    samples: Choice = None,
    neurons: Choice = None,
    positions: Choice = None,
    keep: int = 0,
    budget: int | None = None,
    mixing: Mixing = "refuse",
    audit: bool = True,
    chunk: int = 500,
    seed: int = 0,
    apply: Mapping[str, Any] = {},
) -> Plan:
    """What a recorder of these samples at these sites would count, and what it would cost.

    - `inputs`: the model's one argument, an array or a tree with the batch first, or `Inputs` for several.
    - `names`: sites, by name, glob or regular expression; see `sites` for what there is.
    - `recordings`: how many there will be at most; the counts are made as small as that allows.
    - `loss`: (outputs, labels) -> one value a sample. `margin`, the default, has the exact signs of the cross-entropy.
      Any other is held against double precision on a few samples (`audit`), which warns above 1 % of bad signs.
    - `derivative`: with respect to the "activation" (only at `Neurons`) or the "pre_activation"; by default to the
      activation where all sites are `Neurons`.
    - `precision`: "exact", products to float32's precision on any device, or "fast", as the device multiplies by
      default: on a GPU or TPU some signs are wrong then, and the `audit` says how many.
    - `samples`, `neurons` (of each site), `positions` (of each feature map, in row-major order): how many, or as a
      float what share, chosen at random with `seed`, smaller choices nested in larger ones; or which ones, as indices
      or a mask. They are recorded in ascending order.
    - `keep`: recordings, evenly spaced, at which pre-activations are kept.
    - `budget`: bytes on the device that may not be exceeded.
    - `mixing`: what to do where another sample's input changes a sample's derivative.
    - `chunk`: samples looked at at once.
    - `apply`: what else `model.apply` is given, the same for all samples, such as `{"train": False}`.

    Raises InputError, or its SiteError, where any of this cannot be.
    """
    size = taps.batch_size((inputs, labels))
    check_apply(apply, size)
    some = jax.tree.map(lambda leaf: jnp.asarray(leaf[:LOOKED_AT]), (inputs, labels))
    sites = selected(model, variables, some[0], names, **apply)
    summaries.check_names(sites)
    check_labels_fit(loss, labels, check_loss(model, variables, some[0], some[1], loss, **apply))
    if recordings < 1:
        raise InputError(f"recordings={recordings}: say how many recordings there will be, at least one")
    if keep == 1 or keep < 0:
        raise InputError(f"keep={keep}: a change needs at least two recordings, the first and the last; 0 keeps none")
    everything = taps.sites(model, variables, some[0], **apply)
    design = Design(
        model,
        loss,
        sites,
        {name: chosen(neurons, "neurons", site.shape[-1], seed) for name, site in sites.items()},
        {name: chosen(positions, "positions", math.prod(site.shape[:-1]), seed) for name, site in sites.items()},
        derivative or in_reach(sites),
        precision,
        mixing == "batch",
        dict(apply),
        recordings,
        taps.fitting(sites, chunk),
        tuple(np.unique(np.linspace(0, recordings - 1, keep).round().astype(int)).tolist()),
        training.stepwise(training.convolutional(everything.values())),
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dict(variables)),
    )
    rows = chosen(samples, "samples", size, seed)
    made = Plan(design, variables, inputs, labels, np.arange(size) if rows is None else rows)
    if budget is not None and made.device > budget:
        raise InputError(
            f"budget={budget}, but recording needs {made.device} bytes on the device: samples="
            f"{made.samples_within(budget)} would fit; or record fewer neurons, positions or sites, or keep less"
        )
    if mixing == "refuse":
        check_mixing(design, variables, *some)
    half = any(np.dtype(site.dtype).itemsize < 4 for site in sites.values())
    if audit and (loss is not margin or half or precision == "fast"):
        warn_of_signs(design, variables, *some)
    return made


def recorder(*args: Any, **kwargs: Any) -> Recorder:
    """`plan(...).recorder()`: see `plan` for what it is given."""
    return plan(*args, **kwargs).recorder()
