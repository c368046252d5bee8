"""The paper's figures, and those it lacks: a labelled dataset in, a matplotlib Figure out. No files are touched.

matplotlib takes long to import: each figure's module is imported when the figure is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neuron_mech.paper.figures.categories import atlas, class_consistency, predictions
    from neuron_mech.paper.figures.codes import accuracy_name, binarization, information, quantization
    from neuron_mech.paper.figures.composites import COMPOSITES, composite
    from neuron_mech.paper.figures.saving import write_figure
    from neuron_mech.paper.figures.sheets import write_sheet
    from neuron_mech.paper.figures.signs import (
        average_sign_histograms,
        average_signs_by_phase,
        constancy_over_training,
        controls,
        objectives,
        training_curves,
    )
    from neuron_mech.paper.figures.styles import style
    from neuron_mech.paper.figures.watching import all_neurons, dynamics, separation

_MODULES = {
    "matplotlib.figure": ("Figure",),
    "neuron_mech.paper.figures.categories": ("atlas", "class_consistency", "predictions"),
    "neuron_mech.paper.figures.codes": ("accuracy_name", "binarization", "information", "quantization"),
    "neuron_mech.paper.figures.watching": ("all_neurons", "dynamics", "separation"),
    "neuron_mech.paper.figures.signs": (
        "average_sign_histograms",
        "average_signs_by_phase",
        "constancy_over_training",
        "controls",
        "objectives",
        "training_curves",
    ),
    "neuron_mech.paper.figures.composites": ("COMPOSITES", "composite"),
    "neuron_mech.paper.figures.saving": ("write_figure",),
    "neuron_mech.paper.figures.sheets": ("write_sheet",),
    "neuron_mech.paper.figures.styles": ("style",),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


__all__ = [
    "COMPOSITES",
    "Figure",
    "accuracy_name",
    "all_neurons",
    "atlas",
    "average_sign_histograms",
    "average_signs_by_phase",
    "binarization",
    "class_consistency",
    "composite",
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
    "write_figure",
    "write_sheet",
]
