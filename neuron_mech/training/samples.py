"""Samples with permanent ids, their rows: `Samples` are arrays on the device, a `Stream` reads files.

Both have a length, `rows`, a `blank` sample, and `chunks`, so the same code works on either. `walk` is `chunks` with a
progress bar.
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


@jax.jit
def _taken(arrays: tuple[Array, Array], ids: Array) -> tuple[Array, Array]:
    """As one program: indexing outside of `jit` is ten, for every other number of ids."""
    images, labels = arrays
    return images[ids], labels[ids]


class Samples(struct.PyTreeNode):
    """Images as stored (unsigned integers) and integer labels; `inputs` are the images as a network takes them."""

    images: UInt[Array, "*samples height width channels"]
    labels: Int[Array, "*samples"]
    largest: int = struct.field(pytree_node=False)
    """The stored value that becomes 1.0."""
    pixels: int | None = struct.field(pytree_node=False, default=None)
    """Height and width of `inputs`; None for the size of `images`."""

    def __len__(self) -> int:
        return self.labels.shape[0]

    def rows(self, ids: Int[Array | np.ndarray, " ids"]) -> "Samples":
        """The samples with these ids, in this order."""
        images, labels = _taken((self.images, self.labels), ids)
        return self.replace(images=images, labels=labels)

    @property
    def blank(self) -> "Samples":
        """One sample of zeros, from which a network learns its input's shape."""
        images = jnp.zeros((1, *self.images.shape[1:]), self.images.dtype)
        return Samples(images, jnp.zeros(1, jnp.int32), self.largest, self.pixels)

    def chunks(self, size: int) -> "Iterator[Samples]":
        """All samples in order, `size` at a time; the last chunk may be smaller."""
        for start in range(0, len(self), size):
            yield self.rows(np.arange(start, min(start + size, len(self))))

    @property
    def inputs(self) -> Float[Array, "samples height width channels"]:
        """All images as float32 in [0, 1], resized to `pixels` (bilinear, with antialiasing).

        Use it on a batch of `rows`, not on a whole data set.
        """
        return self.prepared(self.images)

    def prepared(
        self, images: UInt[Array, "several height width channels"]
    ) -> Float[Array, "several rows columns channels"]:
        """`inputs` of other images that are stored as these are."""
        scaled = images.astype(jnp.float32) / self.largest
        size = scaled.shape[:1] + 2 * (self.pixels,) + scaled.shape[3:] if self.pixels else scaled.shape
        return scaled if size == scaled.shape else jax.image.resize(scaled, size, "bilinear")


@dataclass(frozen=True)
class Stream:
    """Samples that stay on disk: `chunks` reads, decodes and crops them one chunk after another.

    Memory holds a few blocks for each worker and one chunk, whatever the number of images. Where `corrupt` is skip,
    images that cannot be decoded are missing in the chunks.
    """

    reader: Reader
    corrupt: Literal["stop", "skip"] = "stop"
    workers: int = 0
    """Number of processes that read and decode; 0: this process does."""
    files: tuple[Path, ...] = ()
    """The files with the records."""

    def __len__(self) -> int:
        return len(self.reader.ids)

    def rows(self, ids: Int[np.ndarray, " ids"]) -> "Stream":
        """The samples with these ids, in this order."""
        return replace(self, reader=replace(self.reader, ids=self.reader.ids[ids]))

    @property
    def blank(self) -> Samples:
        """One sample of zeros, from which a network learns its input's shape."""
        blank = jnp.zeros((1, *self.reader.shape), self.reader.dtype)
        return Samples(blank, jnp.zeros(1, jnp.int32), largest=np.iinfo(self.reader.dtype).max)

    def chunks(self, size: int) -> Iterator[Samples]:
        """All samples in order, `size` at a time; the last chunk may be smaller.

        At the end it prints how fast images could be read and how fast they were used; the lower rate is the limit.
        Raises RunError that names a corrupt image where they are not skipped, and for a worker that dies.
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
        # The median over chunks, since the first includes compilation, and the last one may.
        read_rate, use_rate = images * max(self.workers, 1) / reading.seconds, 1 / float(np.median(spent))
        where = f"{self.workers} worker{'s' * (self.workers > 1)}" if self.workers else "in this process"
        tqdm.write(
            f"{self.reader.name}: {images:,} images; input {read_rate:.0f} images/s ({where}), "
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
            # A stream's labels are checked by its reader.
            labels = samples.labels if isinstance(samples, Samples) else np.zeros(0, np.int32)
            check_labels(labels, self.classes, f"data.name {self.name}: {part} labels")

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the samples on the device; 0 for streams."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves((self.train, self.test)) if isinstance(leaf, jax.Array))

    @property
    def top(self) -> int:
        """Number of largest outputs among which the label must be for accuracy: 5 for 1,000 classes or more, else 1."""
        return 5 if self.classes >= 1000 else 1
