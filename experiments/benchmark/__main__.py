"""The command line of `comparison`."""

from experiments.benchmark.comparison import main
from experiments.command_line import exiting

exiting(main)
