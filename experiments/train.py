"""Train a preset's network, recording gradient signs on the way; resume it if it was stopped.

Writes train.nc (loss by step, accuracy by epoch) and figures/training. Every other experiment does this by itself where
it has not been done.
"""

from __future__ import annotations

import numpy as np

from experiments.command_line import check_training, main_of_runs
from neuron_mech import store
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper import figures
from neuron_mech.runs import Run
from neuron_mech.store import variable


def dataset(run: Run) -> xr.Dataset:
    """train.nc: `loss(step)` in nats, `train_accuracy(epoch)` and `test_accuracy(epoch)`."""
    history, config = run.state.history, run.study.config
    some = "accuracy on up to 10,000 random training samples, evaluation mode"
    every = "accuracy on all test samples, evaluation mode"
    found = {
        "loss": variable("step", history["loss"], "mean cross-entropy of the step's batch", "nat"),
        "train_accuracy": variable("epoch", history["train_accuracy"], some),
        "test_accuracy": variable("epoch", history["test_accuracy"], every),
    }
    coords = {"step": np.arange(history["loss"].size), "epoch": np.arange(1, config.train.epochs + 1)}
    attributes = {"preset": config.preset, "batches_per_epoch": run.study.batches, "seed": config.train.seed}
    return xr.Dataset(found, coords, attributes)


def summary(found: xr.Dataset) -> str:
    """How good the network is."""
    return f"test accuracy {float(found.test_accuracy[-1]):.2%} after {found.sizes['epoch']} epochs"


@store.step("train")
def report(run: Run) -> None:
    """Draw a finished run, print its accuracy, and write train.nc last, so that the file says that all is done."""
    found = dataset(run)
    figures.write_figure(run.directory, "training", figures.training_curves(found))
    store.write_dataset(run.directory / "train.nc", found)
    print(f"{summary(found)}; {run.directory / 'train.nc'}")


if __name__ == "__main__":
    main_of_runs("train", __doc__ or "", report, summary, check_training)
