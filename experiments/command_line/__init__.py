"""The command line of every experiment: a preset, its fields as options, where to run, and one-line errors."""

from experiments.command_line.session import (
    Options,
    Seeded,
    Session,
    check_recording,
    check_training,
    entry_point,
    exiting,
    held,
    main,
    main_of_runs,
    parse,
    timed,
)

__all__ = [
    "Options",
    "Seeded",
    "Session",
    "check_recording",
    "check_training",
    "entry_point",
    "exiting",
    "held",
    "main",
    "main_of_runs",
    "parse",
    "timed",
]
