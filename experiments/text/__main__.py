"""The command line of `command`."""

from experiments.command_line import exiting
from experiments.text.command import main

exiting(main)
