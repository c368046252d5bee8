"""The result files of a run directory that claims are judged by."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuron_mech import store
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.store import files

FILES = {
    "quantization": "quantization.nc",
    "quantization_after": "quantization_activation.nc",
    "binarization": "binarization.nc",
}
"""{field of Findings: result file} of what is measured of all seeds together."""

OF_SEEDS = {
    "train": "train.nc",
    "signs": "gradient_signs.nc",
    "dynamics": "learning_dynamics.nc",
    "classes": "class_consistency.nc",
    "controls": "controls.nc",
    "displacement": "equal_displacement.nc",
}
"""The same of what is recorded during training, which each seed has."""


@dataclass(frozen=True)
class Findings:
    """Result files of a run and its repetitions with other seeds; missing ones are an empty list or None."""

    preset: str
    network: str = "mlp"
    """`model.network`, which decides whether a site is one of the paper's."""
    train: list[xr.Dataset] = field(default_factory=list)
    signs: list[xr.Dataset] = field(default_factory=list)
    dynamics: list[xr.Dataset] = field(default_factory=list)
    classes: list[xr.Dataset] = field(default_factory=list)
    controls: list[xr.Dataset] = field(default_factory=list)
    displacement: list[xr.Dataset] = field(default_factory=list)
    quantization: xr.Dataset | None = None
    quantization_after: xr.Dataset | None = None
    """quantization.nc for activations instead of pre-activations."""
    binarization: xr.Dataset | None = None
    beside: list[xr.Dataset] = field(default_factory=list)
    """gradient_signs.nc of the run beside this one: the linear network's for a ReLU network, and the reverse."""
    train_beside: list[xr.Dataset] = field(default_factory=list)
    """train.nc of that run."""
    damaged: tuple[str, ...] = ()
    """One line for each file that cannot be read, with the reason."""
    trained_here: bool = True
    """Whether the run trained the network. Of a network with given weights no signs were recorded."""

    @property
    def missing(self) -> list[str]:
        """Names of the result files that are missing."""
        asked = FILES | (OF_SEEDS if self.trained_here else {})
        return [file for field, file in asked.items() if field != "quantization_after" and self.first(file) is None]

    def first(self, file: str) -> xr.Dataset | None:
        """The first seed's result file of this name, or the one of all seeds; None where it is missing."""
        found = {name: getattr(self, field) for field, name in (FILES | OF_SEEDS).items()}[file]
        return next(iter(found), None) if isinstance(found, list) else found


def findings(directory: Path) -> Findings:
    """The result files of a run directory that claims are judged by, with those of its repetitions with other seeds.

    Of a ReLU network those of the linear one are read too, and the reverse, where they lie in the directory beside it
    of the same name but for the function: runs/cifar10-relu and runs/cifar10-linear. All are read into memory.

    Arguments:
        directory: of a run, finished or not. A file that is damaged counts as missing; `damaged` says why.

    Returns:
        `Findings`: a dataset, or None, for each file of all seeds; for each file that every seed has, a list with one
            a seed, the directory's own first. `missing` names the files that are not there.

    Raises InputError where there is no run, and FormatError where a result file of the run is of another format: such a
    file is whole, so verdicts based on it must not be overwritten.

    >>> import pathlib, tempfile
    >>> from neuron_mech import config, store
    >>> from neuron_mech.paper import claims
    >>> with tempfile.TemporaryDirectory() as name:
    ...     with store.opened(pathlib.Path(name), config.PRESETS["digits"]) as directory:
    ...         found = claims.findings(directory)
    >>> found.preset, found.missing[:2], found.signs
    ('digits', ['quantization.nc', 'binarization.nc'], [])
    """
    config = store.read_config(directory)
    damaged: list[str] = []

    def read(path: Path) -> xr.Dataset | None:
        if not store.exists(path):
            return None
        try:
            return store.read_dataset(path)
        except InputError as error:
            if isinstance(error, store.FormatError) and directory in path.parents:
                raise
            damaged.append(str(error))
            return None

    def of_seeds(where: Path, name: str) -> list[xr.Dataset]:
        found = {at: read(at / name) for at in store.seed_directories(where)}
        place = lambda at: at.name if at != where else ""  # noqa: E731
        return [part.assign_attrs(place=place(at)) for at, part in found.items() if part is not None]

    other = {"relu": "linear", "linear": "relu"}.get(config.model.activation, "")
    whole = Path(os.path.abspath(directory))  # `.` has no name
    partner = whole.parent / whole.name.replace(config.model.activation, other) if other else whole
    files.check(partner)
    held: dict[str, Any] = {field: of_seeds(directory, file) for field, file in OF_SEEDS.items()}
    held |= {field: read(directory / file) for field, file in FILES.items()}
    return Findings(
        preset=config.preset,
        network=config.model.network,
        **held,
        beside=of_seeds(partner, "gradient_signs.nc") if partner != whole else [],
        train_beside=of_seeds(partner, "train.nc") if partner != whole else [],
        damaged=tuple(damaged),
        trained_here=config.model.weights is None,
    )


def alike(*several: list[xr.Dataset]) -> bool:
    """Whether lists of files are of the same seeds, one by one: a file that is missing moves those after it up."""
    return len({tuple(file.attrs.get("place") for file in files) for files in several}) == 1


def label(found: xr.Dataset, site: str) -> str:
    """A site's label in a result file: its name with its activation function."""
    return str(found.label.sel(site=site).item())
