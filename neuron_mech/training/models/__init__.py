"""The paper's networks: plain Flax modules, whose activation functions are `Neurons`."""

from neuron_mech.config import Model
from neuron_mech.taps.neurons import Neurons
from neuron_mech.training.models.cnn import CNN
from neuron_mech.training.models.mlp import MLP
from neuron_mech.training.models.resnet import ResNet50

__all__ = ["CNN", "MLP", "Neurons", "ResNet50", "build"]


def build(model: Model, classes: int) -> MLP | CNN | ResNet50:
    """The network of a config's `model` section, for a number of classes."""
    by_stage = tuple(round(count * model.width) for count in (64, 128, 256, 512))
    if model.network == "cnn":
        return CNN(activation=model.activation, depth=model.depth or 3, neurons=by_stage, classes=classes)
    if model.network == "resnet50":
        assert model.variant is not None
        return ResNet50(variant=model.variant, activation=model.activation, neurons=by_stage, classes=classes)
    assert model.depth is not None
    assert model.dropout is not None
    return MLP(
        activation=model.activation,
        depth=model.depth,
        neurons=round(512 * model.width),
        dropout=model.dropout,
        classes=classes,
    )
