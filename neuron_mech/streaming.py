"""Images that stay on disk until they are needed: read, decoded and cropped by Grain, in blocks, in order.

Worker processes hold a few blocks each, so memory does not grow with the number of images. What a block has gone
through is the same in a worker as in this process.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Int, UInt8
from PIL import Image

from neuron_mech.errors import RunError, first_line
from neuron_mech.lazily import grain

BLOCK = 32
"""Images of a block."""


class Block(NamedTuple):
    """Images of one size, their labels, one line for each that could not be decoded, and the seconds it all took."""

    images: UInt8[np.ndarray, "images height width channels"]
    labels: Int[np.ndarray, " images"]
    corrupt: list[str]
    seconds: float


def prepared(encoded: bytes, mode: str, pixels: int | None) -> UInt8[np.ndarray, "height width channels"]:
    """An encoded image as an array: converted to `mode` (RGB or L) whatever it is, and cropped to `pixels` squared.

    As ImageNet networks are evaluated: the short side becomes 256/224 of `pixels` (bilinear, smoothed), then the
    centre is cut out. None leaves the size. Raises OSError, ValueError or SyntaxError for what is no whole image.
    """
    with Image.open(io.BytesIO(encoded)) as opened:
        image = opened.convert(mode)
    if pixels is not None:
        side = round(pixels * 256 / 224)
        short = min(image.size)
        width, height = (max(side, round(length * side / short)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - pixels) // 2, (height - pixels) // 2
        image = image.crop((left, top, left + pixels, top + pixels))
    return np.asarray(image).reshape(image.height, image.width, len(mode))


@dataclass(frozen=True)
class Reader:
    """Block number -> `Block`. `source` holds records of encoded `image`, `label` and, if any, `file_name`."""

    name: str
    source: Any
    ids: Int[np.ndarray, " images"]
    shape: tuple[int, int, int]
    pixels: int | None

    def __len__(self) -> int:
        return -(-len(self.ids) // BLOCK)

    def __call__(self, block: int) -> Block:
        """Nothing a record holds is an error here: what cannot be read is said in the block."""
        began = time.perf_counter()
        images, labels, corrupt = [], [], []
        for row in self.ids[block * BLOCK : (block + 1) * BLOCK]:
            what = f"record {row} of {self.name}"
            try:
                record = self.source[int(row)]
                if "file_name" in record:
                    what = f"{_text(record['file_name'])} ({what})"
                images.append(
                    self._checked(prepared(record["image"], "RGB" if self.shape[-1] == 3 else "L", self.pixels))
                )
                labels.append(record["label"])
            except Exception as error:  # a damaged file surfaces as any of a dozen types
                corrupt.append(f"{what}: {first_line(error)}")
        stacked = np.stack(images) if images else np.zeros((0, *self.shape), np.uint8)
        return Block(stacked, np.array(labels, np.int32), corrupt, time.perf_counter() - began)

    def _checked(self, image: np.ndarray) -> np.ndarray:
        if image.shape != self.shape:
            raise ValueError(f"it has shape {list(image.shape)}, not {list(self.shape)}")
        return image


@dataclass
class Reading:
    """One pass over a reader's images, regrouped to chunks of one size; what is seen on the way is counted."""

    reader: Reader
    workers: int
    """Processes that read and decode; 0: all in this one."""
    corrupt: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """Spent reading and decoding, summed over processes."""

    def blocks(self) -> Iterator[Block]:
        """All blocks in order. Raises RunError where a worker dies."""
        flags.FLAGS.mark_as_parsed()  # Grain asks absl's flags, which only programs built on absl parse
        steps = grain.MapDataset.range(len(self.reader)).map(self.reader)
        options = grain.MultiprocessingOptions(
            num_workers=min(self.workers, len(self.reader)), per_worker_buffer_size=2
        )
        # No threads: a worker is the unit, and without workers all is done when it is asked for.
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
        """(images, labels) by `size`, a last smaller one too; corrupt images are left out, and counted."""
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


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _exit(error: RuntimeError) -> str:
    code = str(error).partition("exit code ")[2].split(".")[0]
    if code.startswith("-") and code[1:].isdecimal():
        return signal.Signals(int(code[1:])).name
    return f"exit code {code}" if code else str(error).splitlines()[0]


def _begin_worker(index: int, count: int) -> None:
    """A worker leaves Ctrl-C to its parent, and ends when its parent does, however that dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
