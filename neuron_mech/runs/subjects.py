"""The network that quantization and binarization are applied to, with its sites and data.

Its weights come from a finished run, from a run's export, or, for a network that is not trained here, from elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from neuron_mech import store, taps, training
from neuron_mech.codes import sources
from neuron_mech.codes.sources import Source
from neuron_mech.config import Config, random_stream
from neuron_mech.errors import InputError
from neuron_mech.runs import planning
from neuron_mech.runs.loop import Run, data, run
from neuron_mech.store import parameters
from neuron_mech.taps import Site
from neuron_mech.training import datasets, fingerprints, models, pretrained
from neuron_mech.training.datasets import Dataset
from neuron_mech.training.models import ResNet50


@dataclass(frozen=True)
class Subject:
    """A network, its sites and its data."""

    config: Config
    model: nn.Module
    variables: Mapping[str, Any]
    sites: Mapping[str, Site]
    dataset: Dataset
    directory: Path
    """The directory of its results."""

    def label(self, site: str) -> str:
        """The site with its activation function, as the paper writes it: dense1-relu."""
        return f"{site}-{self.config.model.activation}"

    @cached_property
    def untrained(self) -> Mapping[str, Any]:
        """The variables before training; random ones for a network that is not trained here."""
        if self.config.model.weights == "random":
            return self.variables
        return training.init(self.config, self.model, self.dataset.test.blank).variables

    def source(self, kind: str) -> Source:
        """Pre-activations of all its sites: of the network as `trained` or `untrained`, or of a random `projection`.

        Raises InputError where a projection's blocks do not divide the image.
        """
        if kind == "projection":
            height, width, channels = self.dataset.test.blank.inputs.shape[1:]
            keys = {site: random_stream(self.config.train.seed, f"projection to {site}") for site in self.sites}
            return sources.projection(keys, (height, width, channels), self.sites)
        variables = {"trained": lambda: self.variables, "untrained": lambda: self.untrained}[kind]()
        return sources.network(self.model, variables, self.sites)


def of_run(done: Run) -> Subject:
    """The network of a finished run."""
    study = done.study
    return Subject(study.config, study.model, done.state.train.variables, study.sites, done.dataset, done.directory)


def of_export(config: Config, directory: Path, data_dir: Path | None = None) -> Subject:
    """The network whose parameters are in an export of its run, unpacked in `directory`.

    Raises InputError where the parameters or the data are missing, or the run was not finished.
    """
    found = parameters.read(directory)
    if not found.variables:
        raise InputError(
            f"{directory} holds an export of a run without a checkpoint, and so without parameters: finish the run "
            "where it is, and export it again"
        )
    if found.step < found.steps:
        raise InputError(
            f"{directory} holds an export of a run that had come to step {found.step:,} of {found.steps:,}: finish the "
            "run where it is, and export it again"
        )
    dataset, facts = data(config, data_dir)
    store.bind(directory, facts)
    variables = jax.tree.map(jnp.asarray, found.variables)
    model = models.build(config.model, dataset.classes)
    return Subject(config, model, variables, sites(config, dataset), dataset, directory)


def outline(
    config: Config, data_dir: Path | None = None, workers: int | None = None
) -> tuple[Dataset, dict[str, Site]]:
    """(the data set with only one image in each split, the recorded sites), without reading the whole data set.

    Raises InputError where the data set is not prepared, and SiteError for unknown `record.sites`.
    """
    one = replace(config.data, train_images=1, test_images=1)
    dataset = datasets.load(one, data_dir, workers)
    return dataset, sites(config, dataset)


def sites(config: Config, dataset: Dataset) -> dict[str, Site]:
    """The recorded sites of the network that `config` would have. Raises SiteError."""
    model, sample = models.build(config.model, dataset.classes), dataset.test.blank
    available = taps.sites(model, planning.shapes_of(config, model, sample), sample.inputs)
    return taps.select(available, config.record.sites, "record.sites")


def subject(
    config: Config,
    directory: Path,
    data_dir: Path | None = None,
    save_seconds: float = 60.0,
    workers: int | None = None,
    live: Path | None = None,
) -> Subject:
    """The network of `config`, trained to its end in `directory` (see `runs.run`), or with the given `model.weights`.

    What quantization and binarization are asked of: a model, variables, sites and data, wherever they come from. A
    finished run is only read; where the directory is an unpacked export, its parameters are.

    Arguments:
        config: the network, its data, and how it is trained.
        directory: the run's directory, locked by `store.opened`.
        data_dir: where TensorFlow Datasets keeps prepared data, and beside it Keras's weights; None for its default.
        save_seconds: seconds between checkpoints, where it has to be trained.
        workers: processes that read a streamed data set; None for one a core, at most 16. A network that is trained
            here has its data in memory.
        live: a directory for a `LiveView` of its training; None for none.

    Returns:
        A `Subject`: `model`, `variables`, `sites` (those of `record.sites`), `dataset`; `source` for its
            pre-activations, or those of its controls.

    Raises InputError where weights or data are missing, or are not those that `directory` was used with before, and
    what `runs.run` raises.

    ```python
    from pathlib import Path
    import numpy as np
    from neuron_mech import store
    from neuron_mech.config import PRESETS
    from neuron_mech.runs import subjects

    config, directory = PRESETS["digits"], Path("runs/mine")
    with store.opened(directory, config):
        found = subjects.subject(config, directory)
    values = found.source("trained")(found.dataset.test.rows(np.arange(100)).inputs)["dense1"]  # (100, neurons)
    ```
    """
    if config.model.weights is None:
        if parameters.exported(directory):
            return of_export(config, directory, data_dir)
        return of_run(run(config, directory, data_dir, save_seconds, live=live))
    dataset = datasets.load(config.data, data_dir, workers)
    model = models.build(config.model, dataset.classes)
    if config.model.weights == "keras":
        assert isinstance(model, ResNet50)
        variables = pretrained.restore(model, data_dir)
    else:
        variables = training.init(config, model, dataset.test.blank).variables
    chosen = sites(config, dataset)
    store.bind(directory, fingerprints.of(config, dataset))
    return Subject(config, model, variables, chosen, dataset, directory)
