"""The command line."""

from functools import partial

from experiments.command_line import exiting
from experiments.open_questions.command import run

main = partial(run, "prioritisation")

if __name__ == "__main__":
    exiting(main)
