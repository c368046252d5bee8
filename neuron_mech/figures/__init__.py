"""The paper's figures, and those it lacks: a labelled dataset in, a matplotlib Figure out. No files are touched."""

from neuron_mech.figures.categories import atlas, class_consistency, predictions
from neuron_mech.figures.codes import accuracy_name, binarization, information, quantization
from neuron_mech.figures.dynamics import all_neurons, dynamics, separation
from neuron_mech.figures.signs import (
    average_sign_histograms,
    constancy_over_training,
    controls,
    objectives,
    training_curves,
)
from neuron_mech.figures.style import style

__all__ = [
    "accuracy_name",
    "all_neurons",
    "atlas",
    "average_sign_histograms",
    "binarization",
    "class_consistency",
    "constancy_over_training",
    "controls",
    "dynamics",
    "information",
    "objectives",
    "predictions",
    "quantization",
    "separation",
    "style",
    "training_curves",
]
