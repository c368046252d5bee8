"""The paper's figures, and those it lacks: a labelled dataset in, a matplotlib Figure out. No files are touched.

The datasets are those in a run's result files (`load`), and some are made by a recorder of one's own training
(`Recorder.signs`, `classes` and `dynamics`). Each function says which variables and dimensions it needs, beside what
most of them have: the coordinates `site` and `label(site)`, what a site is called, and along a dimension `neuron`, the
neurons of all sites in turn, `neuron_site` and `neuron_index`. What is missing is a KeyError or AttributeError that
names it.

Only `write_figure` and `write_sheet` write files. `savefig` of the Figure does too, anywhere; inside of `style` for the
same look.

matplotlib takes long to import: each figure's module is imported when the figure is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure

    from neuron_mech.paper.figures.categories import atlas as atlas
    from neuron_mech.paper.figures.categories import class_consistency as class_consistency
    from neuron_mech.paper.figures.categories import predictions as predictions
    from neuron_mech.paper.figures.codes import accuracy_name as accuracy_name
    from neuron_mech.paper.figures.codes import binarization as binarization
    from neuron_mech.paper.figures.codes import information as information
    from neuron_mech.paper.figures.codes import quantization as quantization
    from neuron_mech.paper.figures.composites import COMPOSITES as COMPOSITES
    from neuron_mech.paper.figures.composites import composite as composite
    from neuron_mech.paper.figures.saving import write_figure as write_figure
    from neuron_mech.paper.figures.saving import write_sheet as write_sheet
    from neuron_mech.paper.figures.signs import average_sign_histograms as average_sign_histograms
    from neuron_mech.paper.figures.signs import average_signs_by_phase as average_signs_by_phase
    from neuron_mech.paper.figures.signs import constancy_over_training as constancy_over_training
    from neuron_mech.paper.figures.signs import controls as controls
    from neuron_mech.paper.figures.signs import objectives as objectives
    from neuron_mech.paper.figures.signs import training_curves as training_curves
    from neuron_mech.paper.figures.styles import style as style
    from neuron_mech.paper.figures.watching import all_neurons as all_neurons
    from neuron_mech.paper.figures.watching import dynamics as dynamics
    from neuron_mech.paper.figures.watching import separation as separation

_MODULES = ("categories", "codes", "watching", "signs", "composites", "saving", "styles")


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        for module in _MODULES:
            found = vars(importlib.import_module(f"{__name__}.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
