"""What every experiment's command line shares: a preset, its fields as options, where to run, and one-line errors."""

import contextlib
import difflib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from neuron_mech.errors import InputError, Interrupted, RunError
from neuron_mech.presets import PRESETS, Config, Data, Model, Record, Train
from neuron_mech.results import opened
from neuron_mech.runs import Run, run


@dataclass(frozen=True)
class Options:
    """Where a run lives, and its fields. The fields are stored with the run; the first three options are not."""

    run_dir: Path | None = None
    """Directory of the run: begun if new, resumed or reused if not. (default: runs/PRESET)"""
    data_dir: Path | None = None
    """Directory of data prepared by TensorFlow Datasets. (default: TFDS_DATA_DIR, or ~/tensorflow_datasets)"""
    save_seconds: float = 60.0
    """Seconds between checkpoints; one is also saved at the end and when stopped by SIGTERM or Ctrl-C."""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    record: Record = field(default_factory=Record)

    def config(self, preset: str) -> Config:
        """The run's config. Raises InputError for a value that no run can have."""
        return Config(preset, self.data, self.model, self.train, self.record)


def parse(arguments: Sequence[str], name: str, description: str) -> tuple[Config, Options]:
    """(config, options) from `PRESET [--section.field value ...]`; prints help and exits where that is asked.

    Raises InputError, one line, for an unknown preset or field and for a value of the wrong type.
    """
    program = f"python -m experiments.{name}"
    presets = ", ".join(PRESETS)
    if not arguments or arguments[0] in ("-h", "--help"):
        preset, rest = "digits", ["--help"]
        if not arguments:
            raise InputError(f"no preset given: {program} PRESET, where PRESET is one of {presets} (--help says more)")
    else:
        preset, rest = arguments[0], list(arguments[1:])
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, n=1)
        raise InputError(
            f"{preset!r} is no preset; {f'did you mean {near[0]!r}? ' if near else ''}presets are: {presets}"
        )
    config = PRESETS[preset]
    default = Options(data=config.data, model=config.model, train=config.train, record=config.record)
    errors = io.StringIO()
    try:
        # tyro draws its errors as boxes as wide as the terminal; a wide one keeps each message on one line.
        with contextlib.redirect_stderr(errors), _columns(None if "--help" in rest or "-h" in rest else 2000):
            options = tyro.cli(
                Options, default=default, args=rest, prog=f"{program} {preset}",
                description=f"{description}\n\nPresets: {presets}. Defaults below are those of {preset}.",
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise InputError(_one_line(errors.getvalue())) from None
    if options.save_seconds < 0:
        raise InputError(f"--save-seconds is {options.save_seconds}: give a number of at least 0")
    return options.config(preset), options


def main(name: str, description: str, experiment: Callable[[Run, Path], None]) -> None:
    """Parse the command line, bring the run to its end, and hand it with its directory to `experiment`.

    Exit codes: 0 done; 2 the request cannot be met and nothing was started; 1 the run cannot go on; 128 + signal when
    stopped by one.
    """

    def work() -> None:
        config, options = parse(sys.argv[1:], name, description)
        directory = options.run_dir or Path("runs") / config.preset
        with opened(directory, config):
            experiment(run(config, directory, options.data_dir, options.save_seconds), directory)

    exiting(work)


def exiting(work: Callable[[], None]) -> None:
    """Do `work`, and turn the errors a user can mend into one line on stderr and an exit code."""
    try:
        work()
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def _columns(width: int | None):
    before = os.environ.get("COLUMNS")
    try:
        if width is not None:
            os.environ["COLUMNS"] = str(width)
        yield
    finally:
        if width is not None:
            os.environ.pop("COLUMNS")
            if before is not None:
                os.environ["COLUMNS"] = before


def _one_line(box: str) -> str:
    """The message inside one of tyro's boxes, its rules and borders left out."""
    lines = [line.strip(" │|╭╮╰╯─-") if set(line) <= set(" ─-│╭╮╰╯") else line.strip(" │|") for line in box.splitlines()]
    said = [line for line in lines if line][1:]  # the first is the box's title
    return "; ".join(said[:3]).replace("Perhaps you meant:;", "did you mean")
