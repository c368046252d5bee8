"""What the report shows, in its order: figures, what the paper says of them, and what to look at in this run."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neuron_mech.paper.claims import Findings


@dataclass(frozen=True)
class Section:
    """Pictures that belong together."""

    title: str
    figures: tuple[str, ...]
    """File names in figures/, where * stands for any characters."""
    says: str
    """What the paper shows, or why this is here where the paper has no such figure."""
    claims: tuple[int, ...] = ()
    """The claims it is evidence for."""
    whose: str = "The paper"
    """Who says that."""
    measured: Callable[[Findings], list[str]] = lambda found: []
    """Further sentences about this run."""


def _training(found: Findings) -> list[str]:
    return [
        f"Seed {train.attrs.get('seed', 0)}: {float(train.train_accuracy[-1]):.2%} of training and "
        f"{float(train.test_accuracy[-1]):.2%} of test samples are right after {train.sizes['epoch']} epochs."
        for train in found.train
    ]


def _saturation(found: Findings) -> list[str]:
    said = []
    for signs in found.signs[:1]:
        for site in signs.site.values:
            before, after = signs.constancy_by_phase.sel(site=site).values
            if np.isfinite(after):
                label = signs.label.sel(site=site).item()
                said.append(f"{label}: {before:.1%} constant before training accuracy saturated, {after:.1%} after.")
    return said


def _numerics(found: Findings) -> list[str]:
    said = []
    for signs in found.signs[:1]:
        for objective in signs.objective.values:
            at = signs.sel(objective=objective)
            wrong, lost, zero = (
                ", ".join(f"{100 * share:.2f}" for share in at[n].values)
                for n in ("wrong_sign", "lost_sign", "zero_share")
            )
            said.append(
                f"{objective}: against double precision {wrong} % of signs are wrong and {lost} % lost at the end of "
                f"training; over the run {zero} % of derivatives were zero (by site)."
            )
    return said


def _controls(found: Findings) -> list[str]:
    said = []
    for controls in found.controls[:1]:
        for name in controls.control.values[1:]:
            at = controls.sel(control=name)
            shares = ", ".join(f"{share:.1%}" for share in at.constancy.values)
            fitted = "" if name != "random-labels" or bool(at.fitted) else " (not fitted: this says nothing)"
            said.append(f"{name}: {shares} constant{fitted}.")
    return said


def _predictions(found: Findings) -> list[str]:
    said = []
    for classes in found.classes[:1]:
        for site in classes.site.values:
            by = classes.agreement.sel(neuron_site=site).mean("neuron_index")
            said.append(
                f"{classes.site_label.sel(site=site).item()}: of the final categories "
                + ", ".join(f"{float(by.sel(predictor=kind)):.1%} by {kind}" for kind in classes.predictor.values)
                + "."
            )
    return said


def _information(found: Findings) -> list[str]:
    codes, said = found.quantization, []
    if codes is not None:
        for site in codes.site.values:
            at = codes.sel(neuron_site=site)
            bit, whole = (at[f"{kind}_information_by_seed"].values for kind in ("code", "value"))
            said.append(
                f"{codes.label.sel(site=site).item()}: the median neuron's best bit holds "
                f"{np.median(bit / np.maximum(whole, 1e-9)):.0%} of what its whole value says about the label."
            )
    return said


SECTIONS = (
    Section(
        "Average signs of one neuron a site (figure 1)",
        ("figure1",),
        "The paper's random neurons have average signs that crowd at −1 and 1 near the output, less so far from it.",
    ),
    Section(
        "Average signs of all neurons (figure 5)",
        ("figure5", "figure5_by_phase"),
        "The same for all neurons: most pairs near the output are at ±1, about half of them on either side.",
        (1, 2, 3, 4),
    ),
    Section(
        "Constancy while training goes on",
        ("constancy",),
        "Constancy grows by recording longer after convergence, so it is shown before and after.",
        whose="Beyond the paper",
        measured=_saturation,
    ),
    Section(
        "Controls of the signs",
        ("controls",),
        "Asked for by the paper's reviewers: how constant signs are with random labels, and recorded in other ways.",
        whose="Beyond the paper",
        measured=_controls,
    ),
    Section(
        "Numerics",
        ("objectives",),
        "The paper's Keras clipped probabilities: part of the noise of early layers may be arithmetic.",
        whose="Beyond the paper",
        measured=_numerics,
    ),
    Section(
        "Watching neurons learn (figures 2, 6 and 7)",
        ("figure2", "figure6_*", "figure7_*"),
        "The two categories come apart while training goes on, without separating wholly. The samples in yellow, which "
        "end highest, come from everywhere: it is no translation.",
        (5, 6),
    ),
    Section(
        "Separation of all neurons",
        ("separation", "neurons_*"),
        "Asked for by the reviewers: every neuron of a layer, in numbers, and the size of each neuron's partition.",
        whose="Beyond the paper",
    ),
    Section(
        "Classes and categories (figure 8)",
        ("figure8",),
        "In dense2-relu a class is mostly wholly in or wholly out of a neuron's low category.",
        (7,),
    ),
    Section(
        "What predicts a category",
        ("predictions",),
        "The paper says that categories are fixed by the initialization; this asks how much is known beforehand.",
        measured=_predictions,
    ),
    Section(
        "The images of the two categories",
        ("atlas_*",),
        "Asked for by the reviewers: which images a neuron's categories hold.",
        whose="Beyond the paper",
    ),
    Section(
        "Two values a neuron (figure 3)",
        ("figure3", "figure3_activation"),
        "Accuracy survives when every pre-activation becomes one of two values, more so at higher ranks.",
        (8, 11),
    ),
    Section(
        "What one bit says about the label",
        ("information",),
        "Each neuron's own best threshold, and the information in its one bit.",
        whose="Beyond the paper",
        measured=_information,
    ),
    Section(
        "One window of a neuron's range (figure 4)",
        ("figure4",),
        "Accuracy after retraining on a window of ten ranks rises with its distance from rank 50, symmetrically, and "
        "is above chance even there.",
        (9, 10),
    ),
    Section("Training curves", ("training",), "How the network learned.", whose="Beyond the paper", measured=_training),
)
"""Every figure an experiment draws, in the order of the paper's story."""
