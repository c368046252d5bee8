"""What can be chosen, and which numbers no run can have."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from experiments.command_line import chosen
from experiments.command_line.arguments import ask
from neuron_mech.config import HUGE, TINY, WHOLE, Limits
from neuron_mech.errors import InputError


@dataclass(frozen=True)
class TextOptions:
    """Options of this experiment."""

    text: Path
    """File of plain text in UTF-8. Its last tenth is the test set."""
    run_dir: Path = Path("runs/text")
    """Directory for the results."""
    depth: int = 3
    """Blocks."""
    width: int = 128
    """Values a position between blocks: a multiple of 4, the heads. An MLP has four times as many hidden neurons."""
    context: int = 32
    """Characters that the next one is predicted from."""
    steps: int = 3200
    """Training steps, of AdamW."""
    batch: int = 64
    """Samples a step."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    every: int = 20
    """Steps from one recording to the next."""
    samples: int = 500
    """Training samples that are recorded, chosen at random."""
    neurons: int = 128
    """Neurons of each block that are recorded, chosen at random."""
    positions: int | None = None
    """Positions of the context that are recorded, chosen at random. None means all."""
    penalty: float = 0.03
    """Of a probe, on its squared weights."""
    seed: int = 0
    """All that is random follows from it."""


LIMITS = {
    "depth": Limits(1, 1000, WHOLE),
    "width": Limits(4, 2**16, WHOLE),
    "context": Limits(1, 2**16, WHOLE),
    "learning_rate": Limits(TINY, HUGE, "positive, finite number"),
    "penalty": Limits(TINY, HUGE, "positive, finite number"),
    "seed": Limits(0, 2**32 - 1, WHOLE),
}
"""The numbers that options may have; of others, whole ones from 1 on."""


def parse(default: TextOptions, name: str, description: str) -> TextOptions:
    """The options from the command line. Raises InputError for a number that no run can have, or without a text."""
    arguments = sys.argv[1:]
    if not {"--text", "-h", "--help"} & {argument.partition("=")[0] for argument in arguments}:
        raise InputError(f"no text given: python -m experiments.{name} --text FILE, a file of plain text")
    options = ask(TextOptions, default, arguments, name, description)
    chosen.check(options, LIMITS)
    if options.width % 4:
        raise InputError(f"--width is {options.width}: give a multiple of 4, the heads")
    return options


def agree(
    directory: Path, options: TextOptions, text: Mapping[str, Int[np.ndarray, " characters"]]
) -> dict[str, int | float | str | None]:
    """What the run is, stored in options.json. Raises InputError where the directory holds another one."""
    read = hashlib.sha256(b"".join(part.tobytes() for part in text.values())).hexdigest()
    here = {name: value for name, value in asdict(options).items() if name not in ("text", "run_dir")}
    here |= {"SHA-256 of the text": read}
    chosen.agree(directory, here)
    return here
