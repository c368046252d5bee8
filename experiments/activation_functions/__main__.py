"""The command line: measure, draw, claim, and print."""

from pathlib import Path

import experiments.activation_functions
from experiments.activation_functions.claims import of_activation_functions
from experiments.activation_functions.measurement import PRESETS, measure
from experiments.command_line import exiting
from experiments.open_questions import options as shared
from experiments.open_questions.finishing import finish
from neuron_mech import store


def main() -> None:
    """The command line."""
    preset, options = shared.parse("activation_functions", experiments.activation_functions.__doc__ or "", PRESETS)
    dataset = shared.load(options)
    with store.held(options.run_dir or Path("runs") / f"activation_functions-{preset}") as directory:
        shared.agree(directory, options)
        found = measure(options, dataset, directory)
        from experiments.activation_functions import pictures  # with matplotlib

        drawn = {"arms": pictures.figure_of_arms(found), "curves": pictures.figure_of_curves(found)}
        print(pictures.summary(found))
        finish(directory, "activation_functions", found, drawn, of_activation_functions(found))


if __name__ == "__main__":
    exiting(main)
