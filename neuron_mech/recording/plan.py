"""The plan of a recorder: what it will count, and the memory and time it needs, before anything is recorded."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jaxtyping import PyTree

from neuron_mech import taps
from neuron_mech.cluster import devices, memory
from neuron_mech.errors import InputError
from neuron_mech.recording import counting, sameness
from neuron_mech.recording.design import Design, Samples
from neuron_mech.recording.recorder import Recorder


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be recorded, and the bytes that it takes on each device. Made by `plan`.

    Print it for a summary in words; `recorder` makes the recorder. All sizes follow from shapes, before any memory is
    taken: nothing is recorded, and inputs stay where they are.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> plan = neuron_mech.plan(model, variables, x, labels, "layers_0", recordings=100)
    >>> plan.counts  # bytes: 5 samples x (4 neurons x 3 counts of one byte, and 4)
    80
    >>> plan.samples_within(200), plan.samples_within(10**9)
    (2, 5)
    """

    design: Design
    variables: Mapping[str, Any]
    inputs: PyTree
    labels: PyTree
    rows: np.ndarray
    """Indices of the recorded samples among the user's, in the order of the tallies' rows."""
    places: Mapping[str, np.ndarray]
    """By site, the flat index of the position at which each sample is watched (0 where the site has no positions)."""
    passing: int = 0
    """Number of values, beside those of the recorded sites, that a forward pass keeps for one sample."""

    @property
    def counts(self) -> int:
        """Bytes of the tallies: samples x recorded values x three counts of the smallest type, and four a sample."""
        design = self.design
        each = 3 * counting.count_type(design.recordings).itemsize
        values = sum(self._rows(site) * (each * math.prod(design.value_shape(site)) + 4) for site in design.sites)
        return len(design.losses) * values

    def _rows(self, site: str) -> int:
        """Rows of a site on the first device, which holds most."""
        return devices.share(self.design.rows[site], self.design.mesh.size)

    @property
    def kept(self) -> int:
        """Bytes of pre-activations kept: kept recordings x samples x neurons x those of one value; 0 without `keep`."""
        each = {s: len(self.design.indices(s)) * np.dtype(at.dtype).itemsize for s, at in self.design.sites.items()}
        return len(self.design.keeps) * sum(self._rows(site) * size for site, size in each.items())

    @property
    def samples(self) -> int:
        """Bytes of the recorded samples themselves, inputs and labels as they were given."""
        leaves = jax.tree.leaves(jax.eval_shape(lambda tree: tree, (self.inputs, self.labels)))
        each = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in leaves)
        return each * devices.share(len(self.rows), self.design.mesh.size)

    @property
    def _chunk(self) -> int:
        return min(self.design.chunk, devices.share(len(self.rows), self.design.mesh.size))

    @property
    def working(self) -> int:
        """Bytes of a chunk: its inputs as the model takes them, what its pass keeps, values and gradients at the sites.

        At each site the value, its gradient for every loss, and one temporary.
        """
        design = self.design
        one = jax.eval_shape(lambda tree: design.prepare(jax.tree.map(lambda leaf: leaf[:1], tree)), self.inputs)
        inputs = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))
        sizes = (np.dtype(site.dtype).itemsize * math.prod(site.shape) for site in design.sites.values())
        return self._chunk * (inputs + 3 * len(design.losses) * sum(sizes) + 4 * self.passing)

    @property
    def device(self) -> int:
        """Bytes on the device: the sum of `counts`, `kept`, `samples` and `working`, without the network itself."""
        return self.counts + self.kept + self.samples + self.working

    @property
    def checkpoint(self) -> int:
        """Bytes on disk of one saved recorder, without its samples: `counts` and `kept` of all devices."""
        return (self.counts + self.kept) * self.design.mesh.size

    def samples_within(self, budget: int) -> int:
        """Number of samples that fit into `budget` bytes on the device, all else unchanged; 0 where none does."""
        # Working memory grows with the number of samples up to a whole chunk.
        working, each = self.working // self._chunk, (self.device - self.working) // len(self.rows)
        part = budget // (each + working)
        return min(len(self.rows), part if part < self._chunk else (budget - self.working) // each)

    def seconds(self) -> float:
        """Estimated seconds of one recording, from one chunk that is recorded for it: compiled first, then timed.

        So the estimate itself takes as long as compiling, and two chunks. Kept pre-activations are not in it.
        """
        size = self._chunk
        part = jax.tree.map(lambda leaf: jnp.asarray(leaf)[self.rows[:size]], (self.inputs, self.labels))
        run = jax.jit(lambda variables, inputs, labels: self.design.gradients(variables, inputs, labels, 0))
        inputs = self.design.prepare(part[0])
        jax.block_until_ready(run(self.variables, inputs, part[1]))
        start = time.perf_counter()
        jax.block_until_ready(run(self.variables, inputs, part[1]))
        return (time.perf_counter() - start) * devices.share(len(self.rows), self.design.mesh.size) / size

    def __str__(self) -> str:
        sites = ", ".join(f"{site} ({said})" for site, said in self.sites.items())
        return (
            f"{self.design.recordings:,} recordings of {sites}: {memory.size(self.device)} on the device, "
            f"{memory.size(self.counts)} of them counts; {memory.size(self.checkpoint)} in a checkpoint"
        )

    @property
    def sites(self) -> dict[str, str]:
        """{site: what is counted there, in words}, such as "500 samples x 64 values"."""
        return {
            site: f"{self.design.rows[site]:,} samples x {math.prod(self.design.value_shape(site)):,} values"
            for site in self.design.sites
        }

    def recorder(self, state: Mapping[str, Any] | None = None) -> Recorder:
        """The recorder before its first recording, or with the `state` of a saved one; see `Recorder.restored`.

        Now the memory of `device` is taken, but for `working`. Raises InputError where the device has no room for it,
        or where the state is of other samples.
        """
        room, _ = memory.free_memory()
        if self.device > room:
            fit = self.samples_within(room)
            raise InputError(
                f"recording needs {memory.size(self.device)} on the device and {memory.size(room)} are free: "
                f"samples={fit} would fit; or record fewer neurons, positions or sites, or keep less"
            )
        design = self.design
        size = taps.batch_size((self.inputs, self.labels))
        every = np.array_equal(self.rows, np.arange(size))
        inputs, labels = jax.tree.map(
            lambda leaf: np.asarray(leaf if every else leaf[self.rows]), (self.inputs, self.labels)
        )
        # Zeros are laid where they belong: a device holds its share alone.
        where = devices.rows_of(design.mesh)
        lay = lambda site, make: _laid(make, design.rows[site], design.mesh.size, where)  # noqa: E731
        tallies, kept = jax.eval_shape(design.empty), jax.eval_shape(design.blank_kept)
        place = partial(devices.shard_rows, mesh=design.mesh)
        places = {site: place(at, design.rows[site]) for site, at in self.places.items()} if design.keeps else {}
        # All is where a compiled loop returns it: else the loop's second call would be compiled anew.
        count, rows = devices.replicate((np.int32(0), self.rows), design.mesh)
        made = Recorder(
            tallies={loss: {site: lay(site, of[site]) for site in of} for loss, of in tallies.items()},
            count=count,
            kept={site: lay(site, shape) for site, shape in kept.items()},
            samples=Samples(place(inputs, len(self.rows)), place(labels, len(self.rows)), places),
            rows=rows,
            design=design,
        )
        return made if state is None else made.restored(state)

    def abstract_state(self) -> dict[str, Any]:
        """The shapes of a recorder's `state`, as `jax.ShapeDtypeStruct`, without any memory for it.

        Libraries of checkpoints, such as Orbax, ask for them to read one.
        """
        design = self.design
        kept = jax.eval_shape(design.blank_kept)
        found = {
            "tallies": serialization.to_state_dict(jax.eval_shape(design.empty)),
            "count": jax.ShapeDtypeStruct((), jnp.int32),
            "chosen": sameness.abstract_fingerprint(design, self.rows, self.labels),
        }
        return found | ({"kept": kept} if kept else {})


def _laid(shapes: PyTree, rows: int, several: int, where: jax.sharding.NamedSharding) -> PyTree:
    """Zeros of these shapes, of `rows` rows, sharded among `several` devices."""
    count = devices.share(rows, several) * several
    return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape[1:]), leaf.dtype, device=where), shapes)
