"""Samples that keep a permanent id each, their row: `Samples` are arrays on the device, a `Stream` is files.

Both are looked through by the same code: they have a length, `rows`, a `blank` sample, and `chunks`, which `walk` draws
a bar for.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Generic, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, UInt
from tqdm import tqdm

from neuron_mech.errors import RunError
from neuron_mech.taps.objectives import check_labels
from neuron_mech.training.streaming import Reader, Reading


class Samples(struct.PyTreeNode):
    """Images as stored (whole values) and integer labels; `inputs` are what a network sees of them."""

    images: UInt[Array, "*samples height width channels"]
    labels: Int[Array, "*samples"]
    largest: int = struct.field(pytree_node=False)
    """The value that stands for 1."""
    pixels: int | None = struct.field(pytree_node=False, default=None)
    """Height and width of `inputs`; None for those of `images`."""

    def __len__(self) -> int:
        return self.labels.shape[0]

    def rows(self, ids: Int[Array | np.ndarray, " ids"]) -> "Samples":
        """The samples with these ids, in this order."""
        return self.replace(images=self.images[ids], labels=self.labels[ids])

    @property
    def blank(self) -> "Samples":
        """One sample of zeros: what a network needs to know its input's shape."""
        return Samples(
            jnp.zeros((1, *self.images.shape[1:]), self.images.dtype),
            jnp.zeros(1, jnp.int32),
            self.largest,
            self.pixels,
        )

    def chunks(self, size: int) -> "Iterator[Samples]":
        """All samples in order, `size` at a time; the last chunk may be smaller."""
        for start in range(0, len(self), size):
            yield self.rows(np.arange(start, min(start + size, len(self))))

    @property
    def inputs(self) -> Float[Array, "samples height width channels"]:
        """All images as float32 in [0, 1], interpolated where `pixels` is another size than theirs (bilinear, and
        smoothed before they are made smaller): ask a batch of `rows` for them, not a whole data set.
        """
        return self.prepared(self.images)

    def prepared(
        self, images: UInt[Array, "several height width channels"]
    ) -> Float[Array, "several rows columns channels"]:
        """`inputs` of other images, stored as these are."""
        scaled = images.astype(jnp.float32) / self.largest
        size = scaled.shape[:1] + 2 * (self.pixels,) + scaled.shape[3:] if self.pixels else scaled.shape
        return scaled if size == scaled.shape else jax.image.resize(scaled, size, "bilinear")


@dataclass(frozen=True)
class Stream:
    """Samples that stay on disk: `chunks` reads, decodes and crops them as they are asked for.

    Memory holds a few blocks a worker and one chunk, whatever the number of images. `data.corrupt` decides what
    becomes of an image that cannot be decoded; where such are skipped, chunks hold what is left.
    """

    reader: Reader
    corrupt: Literal["stop", "skip"] = "stop"
    workers: int = 0
    """Processes that read and decode; 0: all in this one, when it is asked for."""
    files: tuple[Path, ...] = ()
    """What the records are read from."""

    def __len__(self) -> int:
        return len(self.reader.ids)

    def rows(self, ids: Int[np.ndarray, " ids"]) -> "Stream":
        """The samples with these ids, in this order."""
        return replace(self, reader=replace(self.reader, ids=self.reader.ids[ids]))

    def shard(self, index: int, count: int) -> "Stream":
        """The share of process `index` of `count`: every image is in exactly one."""
        return self.rows(np.arange(index, len(self), count))

    @property
    def blank(self) -> Samples:
        """One sample of zeros: what a network needs to know its input's shape."""
        blank = jnp.zeros((1, *self.reader.shape), self.reader.dtype)
        return Samples(blank, jnp.zeros(1, jnp.int32), largest=np.iinfo(self.reader.dtype).max)

    def chunks(self, size: int) -> Iterator[Samples]:
        """All samples in order, `size` at a time; the last chunk may be smaller.

        At the end says how fast images could be read and how fast they were used: the lower rate binds. Raises
        RunError for a corrupt image that is not skipped, naming it, and for a worker that dies.
        """
        reading = Reading(self.reader, self.workers)
        images, spent = 0, list[float]()
        for pixels, labels in reading.chunks(size):
            self._check(reading.corrupt)
            chunk = Samples(jnp.asarray(pixels), jnp.asarray(labels), largest=np.iinfo(self.reader.dtype).max)
            began = time.perf_counter()
            yield chunk
            spent.append((time.perf_counter() - began) / len(labels))
            images += len(labels)
        self._check(reading.corrupt)
        if not images:
            raise RunError(f"{self.reader.name}: none of {len(self):,} images can be read: prepare the data again")
        # What the median chunk took: the first is compiled for, and the last may be.
        read_rate, use_rate = images * max(self.workers, 1) / reading.seconds, 1 / float(np.median(spent))
        tqdm.write(
            f"{self.reader.name}: {images:,} images; input {read_rate:.0f} images/s ({_processes(self.workers)}), "
            f"network {use_rate:.1f} images/s: the {'network' if use_rate < read_rate else 'input'} binds"
        )
        if reading.corrupt:
            tqdm.write(
                f"{self.reader.name}: {len(reading.corrupt):,} corrupt images left out: {reading.corrupt[0]} ..."
            )

    def _check(self, corrupt: list[str]) -> None:
        if corrupt and self.corrupt == "stop":
            raise RunError(
                f"{corrupt[0]}: put it right in the prepared data, or leave such images out (--data.corrupt skip)"
            )


def _processes(workers: int) -> str:
    return f"{workers} worker{'s' * (workers > 1)}" if workers else "in this process"


def walk(samples: "Samples | Stream", size: int, what: str) -> Iterator[Samples]:
    """`chunks`, with a progress bar in images per second."""
    with tqdm(total=len(samples), desc=what, unit="image", unit_scale=len(samples) > 10_000, leave=False) as bar:
        for chunk in samples.chunks(size):
            yield chunk
            bar.update(len(chunk))


Split = TypeVar("Split", Samples, Stream)


@dataclass(frozen=True)
class Dataset(Generic[Split]):
    """Training and test samples: in memory, `Dataset[Samples]`, or on disk, `Dataset[Stream]`.

    Raises InputError for labels that are not of these classes.
    """

    name: str
    train: Split
    test: Split
    classes: int

    def __post_init__(self) -> None:
        for part, samples in (("training", self.train), ("test", self.test)):
            # A stream's labels are known as they are read: its reader looks at them.
            labels = samples.labels if isinstance(samples, Samples) else np.zeros(0, np.int32)
            check_labels(labels, self.classes, f"data.name {self.name}: {part} labels")

    @cached_property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves((self.train, self.test)) if isinstance(leaf, jax.Array))

    @property
    def top(self) -> int:
        """A network is right where the label is among so many of its largest outputs: 5 of ImageNet's 1,000, else 1."""
        return 5 if self.classes >= 1000 else 1
