"""The command line: measure, draw, claim, and print."""

from pathlib import Path

import experiments.early_layers
from experiments.command_line import exiting
from experiments.early_layers.claims import of_early_layers
from experiments.early_layers.measurement import PRESETS, measure
from experiments.open_questions import options as shared
from experiments.open_questions.finishing import finish
from neuron_mech import store


def main() -> None:
    """The command line."""
    preset, options = shared.parse("early_layers", experiments.early_layers.__doc__ or "", PRESETS)
    dataset = shared.load(options)
    with store.held(options.run_dir or Path("runs") / f"early_layers-{preset}") as directory:
        shared.agree(directory, options)
        found = measure(options, dataset, directory)
        from experiments.early_layers import pictures  # with matplotlib

        drawn = {
            "signals": pictures.figure_of_signals(found),
            "freezing": pictures.figure_of_freezing(found),
            "arms": pictures.figure_of_arms(found),
        }
        if options.factors:
            drawn["factors"] = pictures.figure_of_factors(found)
        finish(directory, "early_layers", found, drawn, of_early_layers(found))


if __name__ == "__main__":
    exiting(main)
