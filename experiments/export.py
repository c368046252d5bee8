"""A run's results and parameters in a few files of limited size, to be brought home; and back into a directory.

    python -m experiments.export RUN_DIR FILE.zip
    python -m experiments.export --unpack FILE.zip RUN_DIR

Takes config, results, figures, claims, report, videos that fit into one piece, and the parameters of the newest
checkpoint that verifies: all but tallies, trajectories and checkpoints. Neither data nor a device are needed, and a run
that is under way is not disturbed. What does not fit into FILE.zip lies beside it, as FILE.DIGEST.zip. In the directory
that it is unpacked into, quantization, binarization, report and reproduce go on from the parameters.
"""

import fnmatch
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
from tqdm import tqdm

from experiments.command_line import entry_point
from experiments.command_line.arguments import ask, split_names
from neuron_mech import store
from neuron_mech.cluster import memory
from neuron_mech.errors import InputError
from neuron_mech.store import parameters, pieces

TAKEN = (
    *("config.json", "identity.json", "provenance.json", "claims.json", "checksums.json", "table1.txt", "*.nc"),
    *("figures/*.png", "figures/*.svg", "figures/*.pdf", "videos/*.mp4", "videos/*.gif"),
    *("report.html", "explorer.html"),
)
"""The files taken from each seed's directory, in this order; its parameters come after config.json."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of this command, after the run's directory and the file."""

    limit: float = 15.0
    """Largest size of a piece in megabytes (10^6 bytes)."""
    leave_out: tuple[str, ...] = ()
    """Files that are not taken, by name or glob, such as report.html, which `experiments.report` makes anew."""

    @property
    def most(self) -> int:
        """Largest size of a piece in bytes."""
        return int(self.limit * 1e6)


@dataclass
class Exporting:
    """An export that is made again while its run goes on; without a `file` it does nothing."""

    directory: Path
    file: Path | None
    options: ExportOptions
    every: float
    """Smallest number of seconds between two exports by `now_and_then`."""
    due: float = 0.0

    def __call__(self) -> None:
        """Export the run as it is. Raises RunError where the export cannot be written."""
        if self.file is None:
            return
        began = time.monotonic()
        tqdm.write(export(self.directory, self.file, self.options))
        sys.stdout.flush()  # so that a log says so even if the process is killed next
        ended = time.monotonic()
        self.due = ended + max(self.every, 19 * (ended - began))  # a twentieth of the time at most

    def now_and_then(self) -> None:
        """Export the run as it is, unless that was done recently."""
        if time.monotonic() > self.due:
            self()


def export(directory: Path, file: Path, options: ExportOptions) -> str:
    """Export the run in `directory` as `file`; returns lines to print.

    Raises InputError where there is no run or `file` is not possible, and RunError where it cannot be written or no
    checkpoint verifies.
    """
    store.read_config(directory)
    files: dict[str, bytes] = {}
    said = []
    for place in store.seed_directories(directory):
        found = parameters.newest(place)
        said += [f"{line}: took the one before" for line in found.damaged]
        trained = f"parameters of step {found.step:,} of {found.steps:,}" if found.variables else "no checkpoint"
        said.append(f"{place}: {trained}")
        # Hidden names are files that are being written.
        for path in (p for glob in TAKEN for p in sorted(place.glob(glob)) if not p.name.startswith(".")):
            name = path.relative_to(directory).as_posix()
            if any(fnmatch.fnmatch(part, glob) for part in (name, path.name) for glob in options.leave_out):
                continue
            if path.parent.name == "videos" and path.stat().st_size > options.most:
                said.append(f"left out: {path}, {memory.size(path.stat().st_size)} long")
                continue
            files[name] = path.read_bytes()
            if path.name == "config.json":
                files[(path.parent / parameters.FILE).relative_to(directory).as_posix()] = parameters.to_bytes(found)
    written = pieces.pack(files, file, options.most)
    size = memory.size(sum(path.stat().st_size for path in written))
    return "\n".join([*said, f"export: {size} in {', '.join(str(path) for path in written)}"])


@entry_point
def main() -> None:
    """The command line: RUN_DIR FILE [--limit MB] [--leave-out ...], or --unpack FILE RUN_DIR."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--unpack"]:
        if len(arguments) != 3:
            raise InputError("--unpack takes the first piece and a new directory: --unpack FILE.zip RUN_DIR")
        file, directory = map(Path, arguments[1:])
        count = len(pieces.unpack(file, directory))
        print(f"{count} files in {directory}; `python -m experiments.report {directory}` says what they hold")
        return
    names, rest = split_names(arguments, 2)
    options = ask(ExportOptions, ExportOptions(), rest, "export RUN_DIR FILE", __doc__ or "")
    if len(names) < 2:
        raise InputError("an export is RUN_DIR FILE, such as runs/digits digits.zip: name both")
    jax.config.update("jax_platforms", "cpu")  # a run under way may occupy the GPU
    print(export(Path(names[0]), Path(names[1]), options))


if __name__ == "__main__":
    main()
