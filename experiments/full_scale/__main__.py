"""The command line of `command`."""

from experiments.command_line import exiting
from experiments.full_scale.command import main

exiting(main)
