"""Did several runs end in the same bits?

    python -m experiments.same_bits RUN_DIR RUN_DIR ...

Prints a digest of the parameters in every run's newest checkpoint that verifies, the seconds it trained (compilation
included), and in a last line which runs are equal to the first in every bit. Needs neither data nor a device.
"""

import hashlib
import sys
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from experiments.command_line import entry_point
from neuron_mech import store
from neuron_mech.errors import InputError
from neuron_mech.store import parameters, provenance
from neuron_mech.store.parameters import Parameters


def lines(directories: list[Path]) -> list[str]:
    """The lines to print. Raises InputError where a directory holds no run or no checkpoint."""
    found: dict[Path, Parameters] = {}
    for directory in directories:
        store.read_config(directory)
        found[directory] = parameters.newest(directory)
        if not found[directory].variables:
            raise InputError(f"{directory} has no checkpoint: train its run first")
    first = found[directories[0]]
    said = [
        f"{hashlib.sha256(parameters.to_bytes(one)).hexdigest()[:16]}  step {one.step:,} of {one.steps:,}  "
        f"{provenance.read(directory).get('seconds', {}).get('training', float('nan')):8.1f} s  {directory}"
        for directory, one in found.items()
    ]
    verdicts = [f"{directory.name} {difference(first, found[directory])}" for directory in directories[1:]]
    return [*said, f"beside {directories[0].name}: {', '.join(verdicts)}"]


def difference(one: Parameters, other: Parameters) -> str:
    """In words: equal in every bit, or how many arrays differ and by how much at most."""
    if one.step != other.step:
        return f"stands at step {other.step:,} and not {one.step:,}"
    mine, theirs = (traverse_util.flatten_dict(of.variables, sep="/") for of in (one, other))
    if {name: array.shape for name, array in mine.items()} != {name: array.shape for name, array in theirs.items()}:
        return "is another network"
    unequal = [name for name, array in mine.items() if array.tobytes() != theirs[name].tobytes()]
    if not unequal:
        return "equal in every bit"
    apart = max(float(np.abs(mine[name].astype(np.float64) - theirs[name]).max()) for name in unequal)
    return f"unequal in {len(unequal)} of {len(mine)} arrays, by {apart:.2g} at most"


@entry_point
def main() -> None:
    """The command line: RUN_DIR RUN_DIR ..."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    directories = [Path(argument) for argument in sys.argv[1:]]
    if len(directories) < 2 or sys.argv[1].startswith("-"):
        raise InputError("give at least two run directories: python -m experiments.same_bits RUN_DIR RUN_DIR ...")
    jax.config.update("jax_platforms", "cpu")
    print("\n".join(lines(directories)))


if __name__ == "__main__":
    main()
