"""Pre-activations of some samples, kept through training: which ones, how they are read, and their files.

Two watches (see `recording.watching`) bound their size: the close one (few neurons, many samples, often) and the wide
one (every recorded neuron, fewer samples, more rarely). Values are those of evaluation mode (dropout off) at the
recorded parameters.

Each watch and site has one `.npy` file of float32, (kept recordings, samples, neurons), written row by row. Writing a
row twice changes nothing, so a resumed run ends in the same bytes; the checksum of every row is part of the run's
state. With several processes, process 0 keeps the files.

A small network's parameters are kept in the same way, for recordings on displaced ones (`equal_displacement`).
"""

import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num, PyTree

from neuron_mech.cluster import processes
from neuron_mech.config import numbered, random_stream
from neuron_mech.errors import InputError, RunError, first_line, nearest
from neuron_mech.recording import watching
from neuron_mech.recording.watching import HEADER, Watch, watched_places
from neuron_mech.runs.study import Study
from neuron_mech.store import files
from neuron_mech.taps.objectives import right
from neuron_mech.training import TrainState
from neuron_mech.training.datasets import Samples

Watched = dict[str, dict[str, np.ndarray]]
"""{"accuracy": {watch: accuracy on its samples at every kept recording}, "checksums": {file: CRC-32 of every row}}"""

_WEIGHTS = "weights.npy"


def watches(study: Study) -> tuple[Watch, ...]:
    """The close and the wide watch of a run; none where it records no signs or `watch.recordings` is 0.

    Raises InputError, naming watch.named, for a neuron that does not exist or is not recorded.
    """
    config = study.config.watch
    if study.config.record.mode == "none" or not config.recordings:
        return ()
    recorded = {site: study.design.indices(site) for site in study.sites}
    named = [_named(name, recorded) for name in config.named]
    close = {}
    for site, neurons in recorded.items():
        key = random_stream(study.config.train.seed, f"watched neurons of {site}")
        chosen = np.asarray(jax.random.permutation(key, neurons))[: config.neurons]
        close[site] = np.unique([*chosen, *(index for at, index in named if at == site)]).astype(np.int64)

    keys = {s: random_stream(study.config.train.seed, f"watched positions of {s}") for s in study.sites}
    # Drawn once for all recorded samples, so that both watches read a sample at the same position.
    places = watched_places(study.sites, study.design.rows, len(study.recorded), keys)

    def watch(name: str, kept: int, samples: int, neurons: dict[str, np.ndarray]) -> Watch:
        samples = min(samples, len(study.recorded))
        positions = {site: at[: min(samples, len(at))] for site, at in places.items()}
        segments = watching.evenly(kept, study.segments)
        return Watch(name, segments, samples, neurons, positions)

    watched = {site: neurons for site, neurons in close.items() if len(neurons)}
    return (
        watch("close", config.recordings, config.samples, watched),
        watch("wide", config.wide_recordings, config.wide_samples, recorded),
    )


LARGEST_WEIGHTS = 2**28
"""Largest size in bytes of a run's kept parameters; a larger network's are not kept."""


@dataclass(frozen=True)
class Weights:
    """All parameters before some of a run's segments: row k before segment `segments[k]`."""

    segments: Int[np.ndarray, " kept"]
    parameters: int

    @property
    def shape(self) -> tuple[int, int]:
        """(kept, parameters) of the file."""
        return len(self.segments), self.parameters

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return HEADER + 4 * math.prod(self.shape)


def weights(study: Study) -> Weights | None:
    """When a run keeps its parameters; None where it records nothing, has running statistics, or is too large."""
    watch, shapes = study.config.watch, study.design.shapes
    recorded = study.config.record.mode in ("eval", "train")
    if not recorded or not watch.recordings or not watch.weights or set(shapes) != {"params"}:
        return None
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
    kept = Weights(watching.evenly(watch.weights, study.segments), parameters)
    return kept if kept.nbytes <= LARGEST_WEIGHTS else None


@jax.jit
def flat(params: PyTree) -> Float[Array, " parameters"]:
    """All parameters as one vector, in the order of the tree's leaves: a row of the file of `Weights`."""
    return ravel_pytree(params)[0]


def _named(name: str, recorded: Mapping[str, np.ndarray]) -> tuple[str, int]:
    if (found := numbered(name)) is None:
        raise InputError(
            f"watch.named has {name[:80]!r}: name a neuron as SITE:INDEX, such as {next(iter(recorded))}:7"
        )
    site, index = found
    if site not in recorded:
        raise InputError(
            f"watch.named has {name!r}, whose site is not recorded; {nearest(site, recorded)}recorded sites are: "
            f"{', '.join(recorded)}"
        )
    if index not in recorded[site]:
        raise InputError(
            f"watch.named has {name!r}, but of {site} neurons {recorded[site][0]} to {recorded[site][-1]} "
            f"({len(recorded[site])} of them) are recorded: name one of these, or set record.neurons to all"
        )
    return site, index


def read(
    study: Study, watch: Watch, state: TrainState, recorded: Samples
) -> tuple[dict[str, Float[Array, "samples neurons"]], Float[Array, ""]]:
    """({site: pre-activations} of the watched samples and neurons, accuracy on these samples), in evaluation mode.

    `recorded` are the recorded samples in their order. One chunk of samples at a time, as in a recording. Pure; jit it
    with `study` and `watch` bound.
    """
    samples = recorded.rows(np.arange(watch.samples))
    common = (study.model, state.variables, samples.images, watch.positions, watch.neurons)
    kept, logits = watching.read(*common, study.config.record.chunk, study.design.prepare)
    return kept, right(logits, samples.labels).mean()


def seen(
    study: Study, watch: Watch, site: str, pairs: Num[np.ndarray, "recorded *positions neurons"]
) -> Num[np.ndarray, "samples watched"]:
    """The values at the watched samples, positions and neurons, of an array over all recorded pairs of a site."""
    columns = np.searchsorted(study.design.indices(site), watch.neurons[site])
    places = watch.positions[site]
    flat = pairs[: len(places)].reshape(len(places), -1, pairs.shape[-1])
    return flat[np.arange(len(places)), places][:, columns]


def nothing_kept(watching: tuple[Watch, ...], weights: Weights | None = None) -> Watched:
    """The part of a run's state about its trajectories before the first row is kept: NaN and zeros."""
    return {
        "accuracy": {watch.name: np.full(len(watch.segments), np.nan, np.float32) for watch in watching},
        "checksums": {name: np.zeros(len(of), np.uint32) for name, (of, _) in _files(watching, weights).items()},
    }


def _files(
    watching: tuple[Watch, ...], weights: Weights | None
) -> dict[str, tuple[Int[np.ndarray, " kept"], tuple[int, ...]]]:
    """{file: (the segment before which each row is kept, shape)} of all watches and weights."""
    found = {_file(watch, site): (watch.segments, watch.shape(site)) for watch in watching for site in watch.neurons}
    return found | ({} if weights is None else {_WEIGHTS: (weights.segments, weights.shape)})


class Trajectories:
    """The files of a run's watches and weights, in `directory`, and the part of the run's state about them."""

    def __init__(self, directory: Path, watching: tuple[Watch, ...], watched: Watched, weights: Weights | None = None):
        self.directory, self.watching, self.weights = directory, watching, weights
        self._files = _files(watching, weights)
        self.watched: Watched = jax.tree.map(np.array, watched)

    def __getitem__(self, name: str) -> Watch:
        """The watch of this name."""
        return next(watch for watch in self.watching if watch.name == name)

    def due(self, segment: int) -> list[tuple[Watch, int]]:
        """(watch, row) of each watch that keeps values before this segment."""
        found = ((watch, int(np.searchsorted(watch.segments, segment))) for watch in self.watching)
        return [(watch, row) for watch, row in found if row < len(watch.segments) and watch.segments[row] == segment]

    def write(self, watch: Watch, row: int, values: Mapping[str, np.ndarray], accuracy: ArrayLike) -> None:
        """Write a row: the values and accuracy of `read`. Raises RunError where it cannot be written."""
        self.watched["accuracy"][watch.name][row] = accuracy
        for site in watch.neurons:
            self._put(_file(watch, site), row, values[site])

    def weights_due(self, segment: int) -> list[int]:
        """[the row of parameters that is kept before this segment], or [] where none is."""
        return [] if self.weights is None else np.flatnonzero(self.weights.segments == segment).tolist()

    def write_weights(self, row: int, parameters: Float[np.ndarray, " parameters"]) -> None:
        """Write a row of parameters. Raises RunError where it cannot be written."""
        self._put(_WEIGHTS, row, parameters)

    def _put(self, name: str, row: int, values: np.ndarray) -> None:
        path, (segments, shape) = self.directory / name, self._files[name]
        block = np.ascontiguousarray(values, np.float32).tobytes()
        self.watched["checksums"][name][row] = zlib.crc32(block)
        if not processes.first():
            return
        size = HEADER + len(segments) * len(block)
        if not path.exists() or path.lstat().st_size != size:
            files.write(path, partial(np.lib.format.open_memmap, mode="w+", dtype=np.float32, shape=shape))
        with files.writing(path), files.change(path) as file:
            file.seek(size - (len(segments) - row) * len(block))
            file.write(block)

    def sync(self) -> None:
        """Flush all files to disk. Call it before saving a state that has the checksums of their rows."""
        for name in self.watched["checksums"]:
            if (path := self.directory / name).exists():
                with files.writing(path), files.change(path) as file:
                    os.fsync(file.fileno())

    def verify(self, segment: int) -> None:
        """Raise RunError where a row that was kept before this segment does not have its checksum."""
        if processes.first():
            for name, (segments, _) in self._files.items():
                self._verified(name, int(np.searchsorted(segments, segment)))

    def values(self, name: str, site: str) -> Float[np.ndarray, "kept samples neurons"]:
        """All rows of the watch called `name` at a site of a finished run. Raises RunError where they do not verify."""
        return self._all(_file(self[name], site))

    def all_weights(self) -> Float[np.ndarray, "kept parameters"]:
        """All kept parameters of a finished run. Raises RunError where they do not verify."""
        return self._all(_WEIGHTS)

    def _all(self, name: str) -> np.ndarray:
        segments, shape = self._files[name]
        return processes.broadcast_array(partial(self._verified, name, len(segments)), shape, np.float32)

    def _verified(self, name: str, rows: int) -> np.ndarray:
        """A file's array, its first `rows` verified by their checksums; an empty one for no rows."""
        path, (_, shape) = self.directory / name, self._files[name]
        lost = f"trajectories cannot be made up for: remove {self.directory.parent} to begin the run again"
        if not rows:
            return np.zeros((0, *shape[1:]), np.float32)
        try:
            values = files.read_array(path)
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({first_line(error)}); {lost}") from None
        if values.shape != shape:
            raise RunError(f"{path} holds {list(values.shape)} values, not {list(shape)}; {lost}")
        sums = [zlib.crc32(row.tobytes()) for row in values[:rows]]
        if wrong := np.flatnonzero(sums != self.watched["checksums"][name][:rows]).tolist():
            raise RunError(f"{path} does not verify in {len(wrong)} of {rows} recordings (row {wrong[0]}); {lost}")
        return values


def _file(watch: Watch, site: str) -> str:
    return f"{watch.name}-{site.replace('/', '.')}.npy"
