"""Networks, written with `Neurons` and otherwise unaware of the study."""

from neuron_mech.models.cnn import CNN
from neuron_mech.models.mlp import MLP
from neuron_mech.models.neurons import Neurons
from neuron_mech.presets import Model

__all__ = ["CNN", "MLP", "Neurons", "build"]


def build(model: Model, classes: int) -> MLP | CNN:
    """The network that a preset's `model` section, a checked one, describes."""
    if model.network == "cnn":
        neurons = tuple(round(count * model.width) for count in (64, 128, 256, 512))
        return CNN(activation=model.activation, neurons=neurons, classes=classes)
    assert model.depth is not None
    assert model.dropout is not None
    return MLP(
        activation=model.activation,
        depth=model.depth,
        neurons=round(512 * model.width),
        dropout=model.dropout,
        classes=classes,
    )
