"""The command line: measure, draw, claim, and print."""

from pathlib import Path

import experiments.prioritisation
from experiments.command_line import exiting
from experiments.open_questions import options as shared
from experiments.open_questions.finishing import finish
from experiments.prioritisation import claims
from experiments.prioritisation.measurement import PRESETS, check, measure
from neuron_mech import store


def main() -> None:
    """The command line."""
    preset, options = shared.parse("prioritisation", experiments.prioritisation.__doc__ or "", PRESETS)
    dataset = shared.load(options)
    check(options, dataset)
    with store.held(options.run_dir or Path("runs") / f"prioritisation-{preset}") as directory:
        shared.agree(directory, options)
        found = measure(options, dataset, directory)
        from experiments.prioritisation import pictures  # with matplotlib

        areas = {name: claims.detection(found, name) for name in claims.noisy(found)}
        gains = {name: claims.gain(found, name) for name in claims.noisy(found)}
        drawn = {
            "patterns": pictures.figure_of_patterns(found),
            "coherence": pictures.figure_of_coherence(found, list(areas)),
            "detectors": pictures.figure_of_detectors(areas, gains),
        }
        print(claims.summary(found, areas))
        finish(directory, "prioritisation", found, drawn, claims.of_prioritisation(found))


if __name__ == "__main__":
    exiting(main)
