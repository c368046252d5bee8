"""What stays fixed through a recorded run, and the counts that it carries along."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Int

from neuron_mech import training
from neuron_mech.cluster import devices
from neuron_mech.config import Config, random_stream
from neuron_mech.recording import counting
from neuron_mech.recording.counting import Tally
from neuron_mech.taps import Site

Tallies = dict[str, dict[str, Tally]]
"""{objective: {site: Tally}}"""


class Counts(struct.PyTreeNode):
    """What recording carries from segment to segment.

    `epoch_signs` is empty but in mode online. There it holds, by site, the signs of this epoch's batches in the order
    in which they came, and the tallies take them over at the epoch's end: writing one byte a step and counting once an
    epoch costs a third of reading and writing three scattered integers a step.
    """

    tallies: Tallies
    epoch_signs: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What stays fixed through a run: the network, its recorded sites and neurons, and the sizes that follow.

    `neurons` holds, per site, the recorded neurons' indices, or None for all of them.
    """

    config: Config
    model: nn.Module
    optimizer: optax.GradientTransformation
    sites: dict[str, Site]
    neurons: dict[str, np.ndarray | None]
    recorded: Int[np.ndarray, " recorded"]
    """Ids of the recorded training samples, in the tally's row order; subsets for smaller counts are its prefixes."""
    samples: int
    """Size of the training set."""
    stepwise: bool = False
    """Whether loops are driven from the host; see `training.stepwise`."""
    devices: int = 1
    """Devices among which batches and, in the probe modes, recorded samples are divided; see `devices`."""

    @property
    def batches(self) -> int:
        """Batches an epoch, the last smaller one counted."""
        return training.batches(self.config, self.samples)

    @property
    def segments_per_epoch(self) -> int:
        """Segments, and in the probe modes recordings, an epoch."""
        return -(-self.batches // self.config.record.every)

    @property
    def segments(self) -> int:
        """Segments of the whole run."""
        return self.segments_per_epoch * self.config.train.epochs

    @property
    def recordings(self) -> int:
        """Recordings of one sample over the whole run."""
        return {"none": 0, "online": self.config.train.epochs}.get(self.config.record.mode, self.segments)

    def rows(self, site: str) -> int:
        """Recorded samples at a site, the tally's rows: the first so many of `recorded`."""
        limits = (entry.rpartition(":") for entry in self.config.record.site_samples)
        limit = next((int(count) for name, _, count in limits if fnmatchcase(site, name)), len(self.recorded))
        return min(limit, len(self.recorded))

    def label(self, site: str) -> str:
        """The site with its activation function, as the paper writes it: dense1-relu."""
        return f"{site}-{self.config.model.activation}"

    def indices(self, site: str) -> Int[np.ndarray, " neurons"]:
        """The recorded neurons of a site, ascending, as indices into all of its neurons."""
        chosen = self.neurons[site]
        return np.arange(self.sites[site].shape[-1]) if chosen is None else chosen

    def value_shape(self, site: str) -> tuple[int, ...]:
        """Shape of one sample's recorded values at a site: (positions ..., recorded neurons)."""
        chosen = self.neurons[site]
        shape = self.sites[site].shape
        return shape if chosen is None else (*shape[:-1], len(chosen))

    def empty_counts(self) -> Counts:
        """Counts before the first recording."""
        mode, size = self.config.record.mode, self.config.train.batch_size
        recorded = () if mode == "none" else self.sites
        objectives = () if mode == "none" else self.config.objectives
        tallies: Tallies = {
            o: {s: counting.empty((self.rows(s), *self.value_shape(s)), self.recordings) for s in recorded}
            for o in objectives
        }
        # A batch writes as many rows as it has samples, though not all are recorded: room for those of the last one.
        signs = {s: jnp.zeros((self.rows(s) + size, *self.value_shape(s)), jnp.int8) for s in recorded}
        return Counts(tallies, signs if mode == "online" else {})


def dealt(study: Study, counts: Counts) -> Counts:
    """The counts with each device holding its own samples'. In mode online every device holds all."""
    if study.devices == 1:
        return jax.tree.map(jnp.asarray, counts)
    if study.config.record.mode == "online":
        return devices.replicate(counts, study.devices)
    return counts.replace(tallies=_by_site(study, counts.tallies, devices.shard_rows))


def collected(study: Study, counts: Counts) -> Counts:
    """The inverse of `dealt`."""
    if study.config.record.mode == "online":
        return devices.on_one(counts, study.devices)
    return counts.replace(tallies=_by_site(study, counts.tallies, devices.gather_rows))


def distinct(study: Study, site: str, tally: Tally) -> Tally:
    """Inside a compiled function: a dealt tally in which every sample counts once, so that sums over rows are right."""
    return tally if study.config.record.mode == "online" else devices.distinct(tally, study.rows(site), study.devices)


def held(study: Study, counts: Counts) -> Counts:
    """The shapes of what each device holds of the counts, from all their shapes."""
    if study.config.record.mode == "online":
        return counts

    def part(tally: Tally, count: int, several: int) -> Tally:
        rows = devices.share(count, several)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), tally)

    return counts.replace(tallies=_by_site(study, counts.tallies, part))


def _by_site(study: Study, tallies: Tallies, place: Callable[[Tally, int, int], Tally]) -> Tallies:
    return {
        o: {site: place(tally, study.rows(site), study.devices) for site, tally in by_site.items()}
        for o, by_site in tallies.items()
    }


def random_ids(config: Config, samples: int, count: int | Literal["all"]) -> Int[np.ndarray, " count"]:
    """`count` ids of training samples: the first of one random permutation, so that smaller choices are nested."""
    order = np.asarray(jax.random.permutation(random_stream(config.train.seed, "recorded samples"), samples))
    return order[: None if count == "all" else count].astype(np.int32)


def recorded_neurons(config: Config, site: str, neurons: int) -> np.ndarray | None:
    """Indices of the recorded neurons of a site, ascending; None for all."""
    if config.record.neurons == "all" or config.record.neurons >= neurons:
        return None
    key = random_stream(config.train.seed, f"recorded neurons of {site}")
    return np.sort(np.asarray(jax.random.permutation(key, neurons))[: config.record.neurons])
