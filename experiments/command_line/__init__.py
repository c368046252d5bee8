"""The command line of every experiment: a preset, its fields as options, where to run, and one-line errors."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from experiments.command_line.arguments import ask, split_preset
from experiments.command_line.helping import about
from neuron_mech.cluster import devices, jax_settings, joining, processes
from neuron_mech.config import LIMITS, PRESETS, WHOLE, Config, Data, Limits, Model, Record, Train, Watch
from neuron_mech.errors import InputError, Interrupted, RunError, first_line, harmless
from neuron_mech.lazily import xarray as xr
from neuron_mech.precision import multiplying
from neuron_mech.runs import Run, check_trained_here, run
from neuron_mech.runs.subjects import Subject, subject
from neuron_mech.store import exists, opened, parameters, provenance, read_dataset
from neuron_mech.store.files import advice

Kind = TypeVar("Kind", bound="Options")


@dataclass(frozen=True)
class Options:
    """Options of every experiment. The first seven are not stored with the run; the rest are its config's fields."""

    run_dir: Path | None = None
    """Directory of the run, which is started, resumed, or reused if finished. None means runs/PRESET."""
    data_dir: Path | None = None
    """Directory of data prepared by TensorFlow Datasets. None means TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    save_seconds: float = 60.0
    """Seconds between checkpoints; one is also saved at the end and when stopped: by Ctrl-C, SIGTERM, SIGHUP, SIGUSR1
    or SIGUSR2."""
    workers: int | None = None
    """Processes that read and decode the images of a stream; 0: all in the main one. None means one a core, at most 16.
    """
    distributed: str | None = None
    """Take part in a run of several processes. auto: as Slurm, Kubernetes or the TPU pod says;
    INDEX/COUNT@HOST:PORT: process INDEX of COUNT, 0 being on HOST. None: one process."""
    patience: float = 120.0
    """Seconds after which such a run ends where one of its processes has not come, or is not heard of any more."""
    live: Path | None = None
    """Directory for a live view of training in TensorBoard, written at the end of every epoch; of repetitions with
    other seeds in seedN below. It needs the extra `live`. None: no such view."""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    record: Record = field(default_factory=Record)
    watch: Watch = field(default_factory=Watch)

    def config(self, preset: str) -> Config:
        """The run's config. Raises InputError for a value that no run can have."""
        return Config(preset, self.data, self.model, self.train, self.record, self.watch)


@dataclass(frozen=True)
class Seeded(Options):
    """Options of an experiment that can be repeated with other seeds."""

    seeds: int = 1
    """Runs, with seeds train.seed, train.seed + 1 ...; all but the first live in RUN_DIR/seedN."""


@dataclass(frozen=True)
class Session(Generic[Kind]):
    """One call of an experiment: its config, its options, and its run's directory, which it has locked."""

    config: Config
    options: Kind
    directory: Path

    def seeds(self) -> Iterator[Run]:
        """The run, and its repetitions with other seeds where `--seeds` asks for them, one at a time."""
        for config, directory in self._repetitions():
            yield self._run(config, directory)

    def each(self, name: str, report: Callable[[Run], None], summary: Callable[[xr.Dataset], str]) -> None:
        """`report` the run of every seed. Of an export, which has no tallies, print the `summary` of its NAME.nc."""
        for config, directory in self._repetitions():
            if not parameters.exported(directory):
                report(self._run(config, directory))
                continue
            path = directory / f"{name}.nc"
            if not exists(path):
                raise InputError(
                    f"{path} is not there, and {directory} is an export, whose tallies and trajectories did not come "
                    f"along: run {name} where the run is, and export it again"
                )
            print(f"{summary(read_dataset(path))}\nas exported: {path}")

    def subjects(self) -> Iterator[Subject]:
        """The network of every seed, trained by the run or with given weights, one at a time."""
        options = self.options
        for config, directory in self._repetitions():
            live = self._live(directory)
            yield subject(config, directory, options.data_dir, options.save_seconds, options.workers, live)

    def _run(self, config: Config, directory: Path) -> Run:
        options = self.options
        return run(config, directory, options.data_dir, options.save_seconds, live=self._live(directory))

    def _live(self, directory: Path) -> Path | None:
        """The directory of the live view of the run in `directory`."""
        live = self.options.live
        return live / directory.name if live is not None and directory != self.directory else live

    def _repetitions(self) -> Iterator[tuple[Config, Path]]:
        """(config, locked directory) of every seed; all but the first have a directory of their own."""
        yield self.config, self.directory
        first = self.config.train.seed
        seeds = self.options.seeds if isinstance(self.options, Seeded) else 1
        for seed in range(first + 1, first + seeds):
            config = replace(self.config, train=replace(self.config.train, seed=seed))
            with opened(self.directory / f"seed{seed}", config) as directory:
                yield config, directory


def parse(
    arguments: Sequence[str],
    name: str,
    description: str,
    kind: type[Kind] = Options,  # type: ignore[assignment]
) -> tuple[Config, Kind]:
    """(config, options) from `PRESET [--section.field value ...]`; --help prints the help and exits.

    Raises InputError, one line, for an unknown preset or field and for a value of the wrong type.
    """
    preset, rest = split_preset(arguments, name, PRESETS)
    config = PRESETS[preset]
    default = kind(data=config.data, model=config.model, train=config.train, record=config.record, watch=config.watch)
    options = ask(kind, default, rest, f"{name} PRESET", about(description, default, preset, Seeded))
    for field_name, limits in OPTIONS.items():
        if (value := getattr(options, field_name, None)) is not None:
            limits.check(f"--{field_name.replace('_', '-')}", value)
    if options.distributed is not None:
        joining.place(options.distributed)
    config = options.config(preset)
    if isinstance(options, Seeded):
        LIMITS["train.seed"].check("train.seed of the last of --seeds", config.train.seed + options.seeds - 1)
    return config, options


OPTIONS = {
    "save_seconds": Limits(0, float("inf")),
    "workers": Limits(0, 1024, WHOLE),
    "patience": Limits(0, 7 * 24 * 3600, "positive number of seconds", above=True),
    "seeds": Limits(1, 1000, WHOLE),
}
"""The limits of those options that are not fields of a config."""


def check_training(options: Options) -> None:
    """Refuse a network that is not trained here. Raises InputError."""
    check_trained_here(options.model)


def check_recording(options: Options) -> None:
    """Refuse a run that records no signs, before anything is trained. Raises InputError."""
    check_training(options)
    if options.record.mode == "none":
        raise InputError("record.mode is none, but this experiment is about recorded signs: choose another mode")


def main(
    name: str,
    description: str,
    experiment: Callable[[Session[Kind]], None],
    kind: type[Kind] = Options,  # type: ignore[assignment]
    check: Callable[[Kind], None] = lambda _: None,
) -> None:
    """The command line of an experiment: parse it, `check` it, lock the run's directory, and call `experiment`.

    Exit codes: 0 done; 2 the request cannot be met and nothing was started; 1 the run cannot go on; 128 + signal when
    stopped by one.
    """

    def work() -> None:
        config, options = parse(sys.argv[1:], name, description, kind)
        check(options)
        with held(config, options) as session, timed(session.directory, name):
            experiment(session)

    exiting(work)


def main_of_runs(
    name: str,
    description: str,
    report: Callable[[Run], None],
    summary: Callable[[xr.Dataset], str],
    check: Callable[[Seeded], None] = check_recording,
) -> None:
    """`main` of an experiment that reports the run of every seed by itself (`Session.each`)."""
    main(name, description, lambda session: session.each(name, report, summary), Seeded, check)


@contextlib.contextmanager
def timed(directory: Path, step: str) -> Iterator[None]:
    """`provenance.timed`, but not for an export, which keeps the provenance of the run that it came from."""
    with contextlib.nullcontext() if parameters.exported(directory) else provenance.timed(directory, step):
        yield


@contextlib.contextmanager
def held(config: Config, options: Kind) -> Iterator[Session[Kind]]:
    """A session with its run's directory locked, joined with the other processes of a distributed run."""
    directory = options.run_dir or Path("runs") / config.preset
    devices.deterministic()
    with multiplying(config.train.precision), joining.joined(options.distributed, options.patience):
        devices.named()
        _agree(config, options)
        with opened(directory, config):
            if isinstance(options, Seeded) and parameters.exported(directory):
                _check_seeds(config, options, directory)
            yield Session(config, options, directory)


def _check_seeds(config: Config, options: Seeded, directory: Path) -> None:
    """Raise InputError where --seeds asks for seeds that the export does not hold."""
    for seed in range(config.train.seed + 1, config.train.seed + options.seeds):
        if not parameters.exported(directory / f"seed{seed}"):
            raise InputError(
                f"--seeds is {options.seeds}, but {directory} is an export without seed {seed}: give fewer"
            )


def _agree(config: Config, options: Options) -> None:
    """Raise InputError, naming the options, where this process was given others than process 0."""
    asked = {"the preset": config.preset}
    for name, value in vars(options).items():
        if is_dataclass(value):
            asked |= {f"--{name}.{part}": repr(of) for part, of in vars(value).items()}
        elif name not in ("run_dir", "data_dir", "distributed", "patience"):
            asked[f"--{name}"] = repr(value)
    first = json.loads(processes.broadcast(lambda: json.dumps(asked).encode()))
    if changed := [f"{name}: {first.get(name)} / {asked[name]}" for name in asked if asked[name] != first.get(name)]:
        raise InputError(f"process 0 was asked for another run (there / here): {'; '.join(changed)}")


def exiting(work: Callable[[], None]) -> None:
    """Call `work` under JAX's standard settings; errors that a user can mend become one line and an exit code."""
    jax_settings.pin()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks
    try:
        work()
        sys.stdout.flush()
    except Interrupted as stop:
        if processes.first():
            print(harmless(str(stop)), file=sys.stderr)
        sys.exit(stop.exit_code)
    except (InputError, RunError) as error:
        print(f"error: {harmless(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"error: {harmless(f'{where}{error.strerror or error}')}: {advice(error)}", file=sys.stderr)
        sys.exit(RunError.exit_code)
    except MemoryError as error:
        print(f"error: out of memory ({first_line(error)}): ask for less, or give it more", file=sys.stderr)
        sys.exit(RunError.exit_code)


def entry_point(work: Callable[[], None]) -> Callable[[], None]:
    """Decorate the `main` of a command that is no experiment on one run: it is called by `exiting`."""
    return functools.wraps(work)(lambda: exiting(work))
