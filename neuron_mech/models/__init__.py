"""Networks, written with `Neurons` and otherwise unaware of the study."""

from neuron_mech.models.mlp import MLP
from neuron_mech.models.neurons import Neurons
from neuron_mech.presets import Model

__all__ = ["MLP", "Neurons", "build"]


def build(model: Model, classes: int) -> MLP:
    """The network that a preset's `model` section describes."""
    return MLP(
        activation=model.activation,
        depth=model.depth,
        neurons=round(512 * model.width),
        dropout=model.dropout,
        classes=classes,
    )
