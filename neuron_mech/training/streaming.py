"""Reading images from disk as they are needed: Grain reads, decodes and crops them, in blocks, in order.

Worker processes hold a few blocks each, so memory does not grow with the number of images. Blocks are the same whether
a worker or this process makes them.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Int, UInt
from PIL import Image

from neuron_mech.errors import RunError, first_line
from neuron_mech.lazily import grain
from neuron_mech.taps.objectives import check_labels

BLOCK = 32
"""Images in a block of a stream."""


class Block(NamedTuple):
    """Images of one size, their labels, one line for each image that could not be decoded, and the seconds taken."""

    images: UInt[np.ndarray, "images height width channels"]
    labels: Int[np.ndarray, " images"]
    corrupt: list[str]
    seconds: float


MODES = {(8, 1): "L", (8, 3): "RGB", (8, 4): "RGBA", (16, 1): "I;16"}
"""Pillow's modes by (bits of a value, channels), for images whose values are read exactly. Pillow has no other mode of
16 bits, and would silently reduce other images to 8."""


def prepared(stored: bytes | np.ndarray, mode: str, pixels: int | None) -> UInt[np.ndarray, "height width channels"]:
    """An image, encoded or as an array of integers, as an array in one of MODES, cropped to `pixels` x `pixels`.

    Every image of 8 bits is converted to `mode` (palettes, CMYK, with or without transparency); there is no conversion
    between 8 and 16 bits. As usual for ImageNet, the short side is resized to 256/224 of `pixels` (bilinear with
    antialiasing), then the centre is cut out; None keeps the size. Raises OSError, ValueError or SyntaxError for an
    image that is damaged or of other bits.
    """
    if isinstance(stored, bytes):
        with Image.open(io.BytesIO(stored)) as opened:
            image = _converted(opened, mode)
    else:
        image = _converted(Image.fromarray(stored.squeeze(-1) if stored.shape[-1] == 1 else stored), mode)
    if pixels is not None:
        side = round(pixels * 256 / 224)
        short = min(image.size)
        width, height = (max(side, round(length * side / short)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - pixels) // 2, (height - pixels) // 2
        image = image.crop((left, top, left + pixels, top + pixels))
    found = np.asarray(image)
    # 16 bits are held as floats, which resizing works with in every Pillow.
    whole = found if found.dtype == np.uint8 else np.rint(found).astype(np.uint16)
    return whole.reshape(image.height, image.width, -1)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """The image in `mode`; as floats for 16 bits. Raises ValueError where the image has another number of bits."""
    deep = mode == "I;16"
    if image.mode.startswith(("I", "F")) != deep:
        raise ValueError(f"its values are of Pillow's mode {image.mode}, not of {16 if deep else 8} bits")
    return Image.fromarray(np.asarray(image).astype(np.float32)) if deep else image.convert(mode)


@dataclass(frozen=True)
class Reader:
    """A function of a block's number that reads the `Block`.

    `source` gives records with `image`, `label` and, in some data sets, `file_name`.
    """

    name: str
    source: Any
    ids: Int[np.ndarray, " images"]
    shape: tuple[int, int, int]
    pixels: int | None
    bits: int = 8
    """Bits of a pixel's value; with the channels, a key of MODES."""
    classes: int | None = None
    """Number of classes; None: labels are not checked."""
    block: int = BLOCK
    """Images in a block."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the images."""
        return np.dtype(f"uint{self.bits}")

    def __len__(self) -> int:
        return -(-len(self.ids) // self.block)

    def __call__(self, block: int) -> Block:
        """Read a block. A record that cannot be read becomes a line in `Block.corrupt`, not an error."""
        began = time.perf_counter()
        images, labels, corrupt = [], [], []
        rows = [int(row) for row in self.ids[block * self.block : (block + 1) * self.block]]
        for row, read in zip(rows, self._records(rows), strict=True):
            what = f"record {row} of {self.name}"
            try:
                record = read()
                if "file_name" in record:
                    name = record["file_name"]
                    what = f"{name.decode(errors='replace') if isinstance(name, bytes) else name} ({what})"
                if self.classes is not None and not 0 <= record["label"] < self.classes:  # a quick check first
                    check_labels(np.atleast_1d(record["label"]), self.classes, "its label")
                image = prepared(record["image"], MODES[self.bits, self.shape[-1]], self.pixels)
                if image.shape != self.shape:
                    raise ValueError(f"it has shape {list(image.shape)}, not {list(self.shape)}")
                images.append(image)
                labels.append(record["label"])
            except Exception as error:  # a damaged file surfaces as any of a dozen types
                corrupt.append(f"{what}: {first_line(error)}")
        stacked = np.stack(images) if images else np.zeros((0, *self.shape), self.dtype)
        return Block(stacked, np.array(labels, np.int32), corrupt, time.perf_counter() - began)

    def _records(self, rows: list[int]) -> list[Callable[[], Any]]:
        """Functions that return one record each. Reading all at once, where possible, is several times as fast."""
        try:
            return [partial(lambda one: one, record) for record in self.source.__getitems__(rows)]
        except Exception:  # as above; reading them one by one shows which is damaged
            return [partial(self.source.__getitem__, row) for row in rows]


@dataclass
class Reading:
    """One pass over a reader's images in chunks of one size, with counts of corrupt images and of seconds."""

    reader: Reader
    workers: int
    """Number of processes that read and decode; 0: this process does."""
    corrupt: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """Seconds spent reading and decoding, summed over processes."""

    def blocks(self) -> Iterator[Block]:
        """All blocks in order. Raises RunError where a worker dies."""
        flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags, which only programs built on absl parse
        steps = grain.MapDataset.range(len(self.reader)).map(self.reader)
        options = grain.MultiprocessingOptions(
            num_workers=min(self.workers, len(self.reader)), per_worker_buffer_size=2
        )
        # No threads in a worker; without workers, every block is read when it is needed.
        stream = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        with closing(iter(stream.mp_prefetch(options, worker_init_fn=_begin_worker))) as blocks:
            try:
                yield from blocks
            except RuntimeError as error:
                raise RunError(
                    f"a process that reads images of {self.reader.name} ended ({_exit(error)}): run the same command "
                    f"again, with fewer --workers (now {self.workers}) where memory ran out"
                ) from error

    def chunks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(images, labels) in chunks of `size`, the last one smaller; corrupt images are left out, and counted."""
        images, labels = [], []
        held = 0
        for block in self.blocks():
            self.seconds += block.seconds
            self.corrupt += block.corrupt
            images.append(np.asarray(block.images))
            labels.append(np.asarray(block.labels))
            held += len(block.labels)
            while held >= size:
                whole, names = np.concatenate(images), np.concatenate(labels)
                images, labels, held = [whole[size:]], [names[size:]], held - size
                yield whole[:size], names[:size]
        if held:
            yield np.concatenate(images), np.concatenate(labels)


def _exit(error: RuntimeError) -> str:
    code = str(error).partition("exit code ")[2].split(".")[0]
    if code.startswith("-") and code[1:].isdecimal():
        return signal.Signals(int(code[1:])).name
    return f"exit code {code}" if code else first_line(error)


def _begin_worker(index: int, count: int) -> None:
    """Set up a worker: it ignores Ctrl-C, which its parent handles, and ends when its parent ends or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
