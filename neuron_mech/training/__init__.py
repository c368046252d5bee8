"""Data, models and the pure training step."""

from neuron_mech.training.steps import (
    TrainState,
    accuracy,
    batches,
    begun,
    convolutional,
    descend,
    epoch_order,
    init,
    optimizer,
    stepwise,
    train_step,
)

__all__ = [
    "TrainState",
    "accuracy",
    "batches",
    "begun",
    "convolutional",
    "descend",
    "epoch_order",
    "init",
    "optimizer",
    "stepwise",
    "train_step",
]
