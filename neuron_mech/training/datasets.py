"""Data sets whose samples have permanent ids: in memory on the device, or as streams from the disk.

A sample's id is its row in the split as TensorFlow Datasets (or scikit-learn, after one fixed split) stores it, so that
an id means the same image in every run.
"""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from neuron_mech.config import Data, random_stream
from neuron_mech.errors import InputError, first_line
from neuron_mech.store.files import advice
from neuron_mech.training.samples import Dataset, Samples, Stream, walk
from neuron_mech.training.streaming import MODES, Reader

__all__ = ["Dataset", "Samples", "Stream", "builder", "directory", "load", "walk", "with_random_labels"]


def load(data: Data, data_dir: Path | None = None, workers: int | None = None) -> Dataset:
    """Load a data set into memory, with a progress bar, or open it as a stream.

    Arguments:
        data: a config's section `data`. Its `name` is digits, which come with scikit-learn, or an image data set of
            TensorFlow Datasets, prepared by `experiments.prepare_data`. Where `train_images` or `test_images` says how
            many, the others are not read.
        data_dir: where TensorFlow Datasets keeps prepared data; None means its own default, TFDS_DATA_DIR or
            ~/tensorflow_datasets.
        workers: number of processes that decode a stream; None means one a core, at most 16; 0 means this process.

    Returns:
        A `Dataset` whose `train` and `test` are `Samples`, with their images as stored, bytes mostly, on the device
            (`nbytes` in all), or where `data.stream` says so, or images differ in size, `Stream`s on the disk. `inputs`
            of a few of them are what a network takes: float32 of shape (samples, height, width, channels) in [0, 1].

    Raises InputError where the data set is not known, not prepared there, cannot be read, has fewer images than are
    asked for, or is no set of images with classes.

    >>> import numpy as np
    >>> from neuron_mech.config import Data
    >>> from neuron_mech.training import datasets
    >>> digits = datasets.load(Data("digits", train_images=100))
    >>> digits.train.images.shape, len(digits.test), digits.classes
    ((100, 8, 8, 1), 360, 10)
    >>> digits.train.rows(np.array([7, 3])).inputs.shape, float(digits.train.inputs.max())
    ((2, 8, 8, 1), 1.0)
    """
    if data.name == "digits":
        if data.stream:
            raise InputError("data.stream is True, but digits come with scikit-learn, in memory: leave it at False")
        found = _digits()
    else:
        prepared = builder(data.name, data_dir)
        image = prepared.info.features["image"].shape
        try:
            found = _streams(prepared, data, workers) if data.stream or None in image else _tfds(prepared, data)
        except OSError as error:
            raise InputError(
                f"--data-dir {prepared.data_dir}: {prepared.name} is there but cannot be read ({first_line(error)}): "
                f"{advice(error)}, or prepare it again"
            ) from error
    parts = {part: _first(getattr(found, part), data, part) for part in ("train", "test")}
    if isinstance(found.train, Samples):
        parts = {part: samples.replace(pixels=data.pixels) for part, samples in parts.items()}
    return replace(found, **parts)


def with_random_labels(dataset: "Dataset[Samples]", seed: int) -> "Dataset[Samples]":
    """The data set with its training labels permuted at random. Test labels stay as they are."""
    dealt = jax.random.permutation(random_stream(seed, "random labels"), dataset.train.labels)
    return replace(dataset, train=dataset.train.replace(labels=dealt))


def _first(samples: Any, data: Data, part: str) -> Any:
    """The first samples of a split, as many as `data.train_images` or `data.test_images` says."""
    count = getattr(data, f"{part}_images")
    if count == "all" or count == len(samples):
        return samples
    if count > len(samples):
        raise InputError(f"data.{part}_images is {count}, but {data.name} has {len(samples):,}: give fewer, or all")
    return samples.rows(np.arange(count))


def _digits() -> Dataset:
    """scikit-learn's 1,797 digits, 8x8 pixels with values 0 to 16: 1,437 for training, 360 for testing, stratified."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch: Any = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    train, test = train_test_split(np.arange(len(images)), test_size=360, random_state=0, stratify=bunch.target)

    def part(ids: np.ndarray) -> Samples:
        return Samples(jnp.asarray(images[ids]), jnp.asarray(bunch.target[ids], dtype=jnp.int32), largest=16)

    return Dataset("digits", part(train), part(test), classes=10)


def tensorflow_datasets() -> Any:
    """The module tensorflow_datasets. Raises InputError, naming what to install, where it or a reader is missing."""
    missing = [name for name in ("tensorflow_datasets", "array_record", "grain") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"every data set but digits needs the extra `data`, of which {', '.join(missing)} is not installed: "
            "pip install 'neuron_mech[data]'"
        )
    import tensorflow_datasets as tfds

    return tfds


def directory(data_dir: Path | None) -> Path:
    """Where TensorFlow Datasets keeps prepared data: `data_dir`, or for None TFDS_DATA_DIR or ~/tensorflow_datasets."""
    tfds = tensorflow_datasets()
    return Path(tfds.core.constants.DATA_DIR if data_dir is None else data_dir)


BY_HAND = {
    "imagenet2012": "ImageNet must be downloaded by hand (an account at image-net.org: ILSVRC2012_img_train.tar and "
    "ILSVRC2012_img_val.tar into DIR/downloads/manual), then "
}
"""What to do before `prepare_data`, for data sets that TensorFlow Datasets cannot download."""


def builder(name: str, data_dir: Path | None) -> Any:
    """The TFDS builder of a data set of images with labels that is prepared in a format with random access.

    Raises InputError, naming the command that prepares it, where it is not.
    """
    tfds = tensorflow_datasets()
    where = directory(data_dir)
    try:
        found = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise InputError(
            f"data.name is {name!r}, which TensorFlow Datasets does not know ({first_line(error)}): name one of its "
            "image data sets, such as mnist, cifar10 or imagenet2012"
        ) from None
    if not found.is_prepared() or found.info.file_format != tfds.core.file_adapters.FileFormat.ARRAY_RECORD:
        raise InputError(
            f"--data-dir {where} has no {name} prepared as array_record: "
            f"{BY_HAND.get(name, '').replace('DIR', str(where))}run `python -m experiments.prepare_data "
            f"{name} --data-dir {where}` (it needs `pip install 'neuron_mech[prepare]'`"
            f"{'' if name in BY_HAND else ' and a network'}), or name the directory that has it"
        )
    features, splits = found.info.features, set(found.info.splits)
    if not {"image", "label"} <= set(features) or "train" not in splits or not {"test", "validation"} & splits:
        raise InputError(
            f"data.name is {name!r}, which has {', '.join(features)} in {', '.join(sorted(splits))}: name a data set "
            "of images with labels, divided into train and test or validation"
        )
    if not getattr(features["label"], "num_classes", None):
        raise InputError(
            f"data.name is {name!r}, whose labels are {type(features['label']).__name__} without classes: name a data "
            "set whose labels are classes, a ClassLabel that says how many"
        )
    if empty := [split for split in ("train", _test_split(found)) if not found.info.splits[split].num_examples]:
        raise InputError(f"data.name is {name!r}, whose split {empty[0]} holds no images: name another data set")
    return found


def _test_split(found: Any) -> str:
    """The split for testing; of ImageNet the validation images, since its test labels are not public."""
    return "test" if "test" in found.info.splits and found.name not in BY_HAND else "validation"


def _reader(found: Any, split: str, pixels: int | None = None) -> Reader:
    """The reader of a split's images. Raises InputError for images whose values cannot be read exactly."""
    tfds = tensorflow_datasets()
    feature = found.info.features["image"]
    kind, shape = np.dtype(feature.np_dtype), feature.shape
    if len(shape) != 3 or (8 * kind.itemsize, shape[-1]) not in MODES or kind.kind != "u":
        raise InputError(
            f"data.name is {found.name!r}, whose images are {kind}{list(shape)}: name a data set of images of 8 bits "
            "with 1, 3 or 4 channels (grey, RGB, RGBA), or of 16 bits with 1"
        )
    undecoded = {"image": tfds.decode.SkipDecoding()} if isinstance(feature, tfds.features.Image) else None
    source = found.as_data_source(split=split, decoders=undecoded)
    size = shape[:2] if pixels is None else (pixels, pixels)
    name, classes = f"{found.name} {split}", found.info.features["label"].num_classes
    return Reader(name, source, np.arange(len(source)), (*size, shape[-1]), pixels, 8 * kind.itemsize, classes)


def _tfds(found: Any, data: Data) -> Dataset[Samples]:
    def part(split: str, count: int | str) -> Samples:
        reader, blocks = _reader(found, split), []
        some = reader.ids[: count if isinstance(count, int) else None]  # images that are not used are not read
        reader = replace(reader, ids=some, block=1000)
        for index in tqdm(range(len(reader)), desc=f"reading {reader.name}", unit="k images", leave=False):
            blocks.append(reader(index))
            if blocks[-1].corrupt:
                raise InputError(f"--data-dir {found.data_dir}: {blocks[-1].corrupt[0]}: put it right in the data")
        images, labels = (np.concatenate(parts) for parts in list(zip(*blocks, strict=True))[:2])
        return Samples(jnp.asarray(images), jnp.asarray(labels), largest=np.iinfo(reader.dtype).max)

    try:
        classes = found.info.features["label"].num_classes
        return Dataset(
            found.name, part("train", data.train_images), part(_test_split(found), data.test_images), classes
        )
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--data-dir {found.data_dir}: {found.name} is there but cannot be read ({first_line(error)}); prepare it "
            "again"
        ) from error


def _streams(found: Any, data: Data, workers: int | None) -> Dataset[Stream]:
    if data.pixels is None and None in found.info.features["image"].shape[:2]:
        raise InputError(f"data.pixels is None, but images of {data.name} differ in size: give one, such as 224")
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)

    def part(split: str) -> Stream:
        files = tuple(Path(path) for path in found.info.splits[split].filepaths)
        return Stream(_reader(found, split, data.pixels), data.corrupt, workers, files)

    return Dataset(found.name, part("train"), part(_test_split(found)), found.info.features["label"].num_classes)
