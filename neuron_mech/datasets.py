"""Whole data sets as arrays on the device, in which every sample keeps a permanent id: its row.

The row is the position in the split as TensorFlow Datasets (or scikit-learn, after one fixed split) stores it, so an
id means the same image in every run.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, UInt8
from tqdm import tqdm

from neuron_mech.errors import InputError, first_line
from neuron_mech.presets import Data, random_stream


class Samples(struct.PyTreeNode):
    """Images as stored (unsigned bytes) and integer labels; `inputs` are what a network sees of them."""

    images: UInt8[Array, "*samples height width channels"]
    labels: Int[Array, "*samples"]
    largest: int = struct.field(pytree_node=False)
    """The byte that stands for 1."""
    pixels: int | None = struct.field(pytree_node=False, default=None)
    """Height and width of `inputs`; None for those of `images`."""

    def __len__(self) -> int:
        return self.labels.shape[0]

    def rows(self, ids: Int[Array | np.ndarray, " ids"]) -> "Samples":
        """The samples with these ids, in this order."""
        return self.replace(images=self.images[ids], labels=self.labels[ids])

    @property
    def inputs(self) -> Float[Array, "samples height width channels"]:
        """All images as float32 in [0, 1], interpolated where `pixels` is another size than theirs (bilinear, and
        smoothed before they are made smaller): ask a batch of `rows` for them, not a whole data set.
        """
        scaled = self.images.astype(jnp.float32) / self.largest
        size = scaled.shape[:1] + 2 * (self.pixels,) + scaled.shape[3:] if self.pixels else scaled.shape
        return scaled if size == scaled.shape else jax.image.resize(scaled, size, "bilinear")


@dataclass(frozen=True)
class Dataset:
    """Training and test samples."""

    name: str
    train: Samples
    test: Samples
    classes: int

    @cached_property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves((self.train, self.test)))


def load(data: Data, data_dir: Path | None = None, seed: int = 0) -> Dataset:
    """Load a data set, with a progress bar where that takes seconds.

    `data_dir` is where TensorFlow Datasets keeps prepared data; None means its own default, TFDS_DATA_DIR or
    ~/tensorflow_datasets. `seed` deals random labels, where `data` asks for them. Raises InputError where the data set
    is not prepared there or cannot be read.
    """
    found = _digits() if data.name == "digits" else _tfds(data.name, data_dir)
    found = replace(found, **{part: getattr(found, part).replace(pixels=data.pixels) for part in ("train", "test")})
    if data.labels == "true":
        return found
    dealt = jax.random.permutation(random_stream(seed, "random labels"), found.train.labels)
    return replace(found, train=found.train.replace(labels=dealt))


def _digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels, 0 to 16: 1,437 to train on, 360 to test, classes in proportion."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch: Any = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    train, test = train_test_split(np.arange(len(images)), test_size=360, random_state=0, stratify=bunch.target)

    def part(ids: np.ndarray) -> Samples:
        return Samples(jnp.asarray(images[ids]), jnp.asarray(bunch.target[ids], dtype=jnp.int32), largest=16)

    return Dataset("digits", part(train), part(test), classes=10)


def directory(data_dir: Path | None) -> Path:
    """Where TensorFlow Datasets keeps prepared data: `data_dir`, or for None TFDS_DATA_DIR or ~/tensorflow_datasets."""
    import tensorflow_datasets as tfds

    return Path(tfds.core.constants.DATA_DIR if data_dir is None else data_dir)


def builder(name: str, data_dir: Path | None) -> Any:
    """The TFDS builder of a data set that is prepared in a format with random access.

    Raises InputError, naming the command that prepares it, where it is not.
    """
    import tensorflow_datasets as tfds

    where = directory(data_dir)
    found = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    if not found.is_prepared() or found.info.file_format != tfds.core.file_adapters.FileFormat.ARRAY_RECORD:
        raise InputError(
            f"--data-dir {where} has no {name} prepared as array_record: run `python -m experiments.prepare_data "
            f"{name} --data-dir {where}` (it needs `pip install 'neuron_mech[prepare]'` and a network), or name "
            "the directory that has it"
        )
    return found


def _tfds(name: str, data_dir: Path | None) -> Dataset:
    found = builder(name, data_dir)
    classes = found.info.features["label"].num_classes

    def part(split: str) -> Samples:
        source = found.as_data_source(split=split)
        images, labels = [], []
        for start in tqdm(range(0, len(source), 1000), desc=f"reading {name} {split}", unit="k images", leave=False):
            records = source.__getitems__(range(start, min(start + 1000, len(source))))
            images += [record["image"] for record in records]
            labels += [record["label"] for record in records]
        return Samples(jnp.asarray(np.stack(images)), jnp.asarray(np.array(labels), dtype=jnp.int32), largest=255)

    try:
        return Dataset(name, part("train"), part("test"), classes)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--data-dir {found.data_dir}: {name} is there but cannot be read ({first_line(error)}); prepare it again"
        ) from error
