"""Options that the three experiments share, their limits, and parts of a run that are kept so that it can go on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from tqdm import tqdm

from experiments.command_line import chosen
from experiments.command_line.arguments import ask, split_preset
from neuron_mech import store
from neuron_mech.config import HUGE, TINY, WHOLE, Data, Limits
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.training import datasets
from neuron_mech.training.datasets import Dataset, Samples


@dataclass(frozen=True)
class Options:
    """Options of all three."""

    run_dir: Path | None = None
    """Directory for the results: what is there already is not computed again. None means runs/EXPERIMENT-PRESET."""
    data_dir: Path | None = None
    """Directory of data prepared by TensorFlow Datasets. None means TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    data: Literal["digits", "mnist"] = "digits"
    """Data set: the digits that come with scikit-learn (1,437 training images of 8 x 8 pixels), or MNIST."""
    images: int | None = None
    """Training images, the first of the data set. None means all."""
    test_images: int | None = None
    """Test images, the first of the data set. None means all."""
    seeds: int = 5
    """Runs: seeds 0, 1 ... All are trained in one program."""
    epochs: int = 40
    """Epochs of each run."""
    batch_size: int = 32
    """Samples a step; those left over at the end of an epoch wait for another one."""
    depth: int = 8
    """Hidden layers."""
    neurons: int = 128
    """Neurons of each hidden layer."""
    every: int = 10
    """Steps from one recording to the next; an epoch begins with one."""

    def check(self, dataset: Dataset[Samples]) -> None:
        """Raise InputError for options that do not fit together, or the data."""
        if self.batch_size > len(dataset.train):
            raise InputError(
                f"--batch-size is {self.batch_size}, but there are {len(dataset.train)} images: give fewer"
            )


Kind = TypeVar("Kind", bound=Options)
Given = ParamSpec("Given")

LIMITS = {
    "seeds": Limits(2, 1000, WHOLE),
    "penalty": Limits(TINY, HUGE, "positive, finite number"),
    "learning_rate": Limits(TINY, HUGE, "positive, finite step size"),
    "dropout": Limits(0, 0.999, "share"),
}
"""The numbers that options may have; of others, whole ones from 1 on."""

NOT_STORED = ("run_dir", "data_dir", "factors")
"""Options that change no part of a run: whether the early layers' grid is computed too can be decided later."""


def parse(name: str, description: str, presets: Mapping[str, Kind]) -> tuple[str, Kind]:
    """(preset, options) from the command line; prints help and exits where that is asked. Raises InputError."""
    preset, rest = split_preset(sys.argv[1:], name, presets)
    about = f"{description}\n\nPresets: {', '.join(presets)}. The defaults below are those of {preset}."
    options = ask(type(presets[preset]), presets[preset], rest, f"{name} {preset}", about)
    chosen.check(options, LIMITS)
    return preset, options


def load(options: Options) -> Dataset[Samples]:
    """The data set, cut to the images asked for. Raises InputError where it cannot be had, or does not fit."""
    part = Data(options.data, train_images=options.images or "all", test_images=options.test_images or "all")
    found = datasets.load(part, options.data_dir)
    options.check(found)
    return found


def agree(directory: Path, options: Options) -> None:
    """Store the options in options.json. Raises InputError where the directory holds a run of other ones."""
    chosen.agree(directory, {name: value for name, value in asdict(options).items() if name not in NOT_STORED})


def kept(
    directory: Path, name: str, compute: Callable[Given, xr.Dataset], *given: Given.args, **more: Given.kwargs
) -> xr.Dataset:
    """What `compute` gives, or what it gave before: a run that was stopped goes on with the first part not kept."""
    for sign, instead in ((", ", "-"), (" + ", "-"), ("/", "by"), (" ", "-")):
        name = name.replace(sign, instead)
    path = directory / "parts" / f"{name}.nc"
    if not path.exists():
        store.write_dataset(path, compute(*given, **more))
    else:
        tqdm.write(f"{name}: as computed before, in {path}")
    return store.read_dataset(path)


def described(**variables: tuple) -> dict[str, tuple]:
    """Variables as xarray takes them, each given as (dimensions, values, description); all are without a unit."""
    return {name: (dims, values, store.about("1", said)) for name, (dims, values, said) in variables.items()}


def numbers(options: Options) -> dict[str, int | float | str | list]:
    """The options as a result file's attributes, which have no booleans; paths and what is None are left out."""
    plain = {name: int(of) if isinstance(of, bool) else of for name, of in vars(options).items()}
    plain = {name: list(of) if isinstance(of, tuple) else of for name, of in plain.items()}
    return {name: of for name, of in plain.items() if isinstance(of, int | float | str | list)}
