"""Train a preset's network, recording gradient signs on the way; resume it if it was stopped.

Writes train.nc (loss by step, accuracy by epoch) and figures/training. Every other experiment calls for this run
itself; on its own it is for training first and looking later.
"""

from pathlib import Path

import numpy as np
import xarray as xr

from experiments.command_line import Session, check_training, main
from neuron_mech import figures, results
from neuron_mech.results import about
from neuron_mech.runs import Run


def dataset(run: Run) -> xr.Dataset:
    """train.nc: `loss(step)` in nats, `train_accuracy(epoch)` and `test_accuracy(epoch)`."""
    history = run.state.history
    epochs = run.study.config.train.epochs
    return xr.Dataset(
        {
            "loss": (
                "step",
                history["loss"],
                about("nat", "mean cross-entropy of the step's batch"),
            ),
            "train_accuracy": (
                "epoch",
                history["train_accuracy"],
                about("1", "accuracy on up to 10,000 random training samples, evaluation mode"),
            ),
            "test_accuracy": (
                "epoch",
                history["test_accuracy"],
                about("1", "accuracy on all test samples, evaluation mode"),
            ),
        },
        {"step": np.arange(history["loss"].size), "epoch": np.arange(1, epochs + 1)},
        {"preset": run.study.config.preset, "batches_per_epoch": run.study.batches},
    )


def experiment(session: Session) -> None:
    """Train, write the results and print the accuracy."""
    report(session.run(), session.directory)


def report(run: Run, directory: Path) -> None:
    """Write the results of a finished run and print its accuracy."""
    found = dataset(run)
    results.write_dataset(directory / "train.nc", found)
    results.write_figure(directory, "training", figures.training_curves(found))
    test = float(found.test_accuracy[-1])
    print(f"test accuracy {test:.2%} after {found.sizes['epoch']} epochs; {directory / 'train.nc'}")


if __name__ == "__main__":
    main("train", __doc__ or "", experiment, check=check_training)
