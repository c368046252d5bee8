"""The command line of an experiment on an open question: measure, draw, judge, and print."""

import importlib
from pathlib import Path

from experiments.open_questions import options as shared
from neuron_mech import store
from neuron_mech.paper import claims, figures


def run(name: str) -> None:
    """The experiment of the package experiments.NAME.

    Of it are taken the docstring; measurement's PRESETS and `measure`; pictures' `figures` and `summary`; and claims'
    `judge`. Writes figures/, claims.json and NAME.nc, last.
    """
    package = importlib.import_module(f"experiments.{name}")
    measurement, judging = (importlib.import_module(f"experiments.{name}.{part}") for part in ("measurement", "claims"))
    preset, options = shared.parse(name, package.__doc__ or "", measurement.PRESETS)
    dataset = shared.load(options)
    with store.held(options.run_dir or Path("runs") / f"{name}-{preset}") as directory:
        shared.agree(directory, options)
        found = measurement.measure(options, dataset, directory)
        pictures = importlib.import_module(f"experiments.{name}.pictures")  # with matplotlib
        for title, figure in pictures.figures(found).items():
            figures.write_figure(directory, title, figure)
        print(pictures.summary(found))
        judged = judging.judge(found)
        claims.write(directory, judged)
        store.write_dataset(directory / f"{name}.nc", found)
    print(claims.table(judged))
    print(f"results: {directory / f'{name}.nc'}; claims: {directory / 'claims.json'}; figures: {directory / 'figures'}")
