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

_MODULES = ("categories", "codes", "watching", "signs", "composites", "saving", "sheets", "styles")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = vars(importlib.import_module(f"{__name__}.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
