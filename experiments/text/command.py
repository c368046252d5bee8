"""The command line: measure, draw, print, and write."""

import tyro

import experiments.text
from experiments.text.measurement import measure
from experiments.text.options import TextOptions, agree, parse
from experiments.text.transformer import read_text
from neuron_mech import store
from neuron_mech.paper import figures
from neuron_mech.store.checkpoints import Checkpoints


def experiment(options: TextOptions) -> None:
    """Measure, draw, print, and write text.nc, last. Raises InputError before anything is trained."""
    from experiments.text.pictures import figure_by_position, figure_of_windows, summary  # with matplotlib

    text, vocabulary = read_text(options.text, options.context)
    with store.held(options.run_dir) as directory:
        with Checkpoints(directory / "checkpoints", agree(directory, options, text)) as saves:
            found = measure(options, text, vocabulary, saves)
        figures.write_figure(directory, "figure5", figures.average_sign_histograms(found))
        figures.write_figure(directory, "constancy_by_position", figure_by_position(found))
        figures.write_figure(directory, "windows", figure_of_windows(found))
        store.write_dataset(directory / "text.nc", found)
    print(summary(found))
    print(f"results: {directory / 'text.nc'}; figures: {directory / 'figures'}")


def main() -> None:
    """The command line."""
    experiment(parse(TextOptions(text=tyro.MISSING), "text", experiments.text.__doc__ or ""))
