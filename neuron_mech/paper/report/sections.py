"""The report's sections in their order: figures, what to see in them, what the paper shows, and what this run shows."""

from dataclasses import dataclass

from neuron_mech.paper.report import measured
from neuron_mech.paper.report.measured import Sentences


@dataclass(frozen=True)
class Section:
    """Pictures that belong together."""

    title: str
    figures: tuple[str, ...]
    """File names in figures/, where * stands for any characters."""
    see: str
    """What to look at."""
    says: str
    """What the paper shows, or why this is here where the paper has no such figure."""
    data: str
    """The result file that the figures are drawn from."""
    claims: tuple[int, ...] = ()
    """The claims it is evidence for."""
    whose: str = "The paper"
    """Whose statement `says` is."""
    measured: Sentences = measured.nothing
    """Sentences about this run. The first two are also the pictures' alternative text, for readers who cannot see."""
    table: tuple[str, ...] = ()
    """Variables of the result file that are offered as a table (CSV)."""
    photographs: bool = False
    """Whether the figures contain images of the data set, whose colours must not be inverted on a dark page."""


BEYOND = "Beyond the paper"

SECTIONS = (
    Section(
        "Average signs of all neurons (figure 5)",
        ("figure5", "figure5_by_phase"),
        "A bar counts (image, neuron) pairs. Those beyond the dotted lines hardly ever changed their sign: the higher "
        "the two outer bars, the more constant the layer.",
        "Most pairs near the output are at ±1, about half of them on either side; less so far from the output.",
        "gradient_signs.nc",
        (1, 2, 3, 4),
        measured=measured.constancy,
        table=("histogram",),
    ),
    Section(
        "Average signs of one neuron a site (figure 1)",
        ("figure1",),
        "The same for a single neuron: the one that is followed through training in figure 2, below.",
        "Random neurons have average signs that crowd at −1 and 1 near the output, less so far from it.",
        "average_signs.nc",
    ),
    Section(
        "Constancy while training goes on",
        ("constancy",),
        "The shares of constant signs so far, as epochs go by. Dots right of the axes: recordings before training "
        "accuracy saturated; diamonds: those after.",
        "Constancy grows by recording longer after convergence, so it is shown before and after.",
        "gradient_signs.nc",
        whose=BEYOND,
        measured=measured.saturation,
        table=("constancy_so_far", "train_accuracy", "test_accuracy"),
    ),
    Section(
        "Controls of the signs",
        ("controls",),
        "Constancy of the run, in green, beside that of the same network trained on random labels or recorded "
        "otherwise.",
        "Asked for by the paper's reviewers: how constant signs are with random labels, and recorded in other ways.",
        "controls.nc",
        whose=BEYOND,
        measured=measured.controls,
        table=("constancy",),
    ),
    Section(
        "Numerics",
        ("objectives",),
        "How many signs are constant, and how many derivatives exactly zero, when the loss is computed in other ways.",
        "The paper's Keras clipped probabilities: part of the noise of early layers may be arithmetic.",
        "gradient_signs.nc",
        whose=BEYOND,
        measured=measured.numerics,
        table=("objective_constancy", "zero_share"),
    ),
    Section(
        "Watching neurons learn (figures 2, 6 and 7)",
        ("figure2", "figure6_*", "figure7_*"),
        "From left to right, training. Images that a neuron pushes down are orange, those it pushes up blue: watch "
        "them come apart. Yellow: the same images in every column, those that end highest.",
        "The two categories come apart without separating wholly. The samples in yellow come from everywhere: it is no "
        "translation.",
        "learning_dynamics.nc",
        (5, 6),
        measured=measured.separation,
        table=("watched_auc",),
    ),
    Section(
        "Separation of all neurons",
        ("separation", "neurons_*"),
        "Green: the median neuron, its quartiles around it. If its own categories were like any other's, it would lie "
        "on the purple line.",
        "Asked for by the reviewers: every neuron of a layer, in numbers, and the size of each neuron's partition.",
        "learning_dynamics.nc",
        whose=BEYOND,
        measured=measured.separation,
        table=("separation", "first_separation"),
    ),
    Section(
        "Classes and categories (figure 8)",
        ("figure8",),
        "Bars at 0 and 100 % are classes that lie wholly in one of a neuron's categories. Grey: labels dealt at "
        "random.",
        "In dense2-relu a class is mostly wholly in or wholly out of a neuron's low category.",
        "class_consistency.nc",
        (7,),
        measured=measured.classes,
        table=("low_share",),
    ),
    Section(
        "What predicts a category",
        ("predictions",),
        "How often the final category is guessed right, from what is known before training or from the class.",
        "The paper says that categories are fixed by the initialization; this asks how much is known beforehand.",
        "class_consistency.nc",
        measured=measured.predictions,
        table=("agreement",),
    ),
    Section(
        "The images of the two categories",
        ("atlas_*",),
        "The images that a neuron pushes down most constantly, those it pushes up, and those it wavers on.",
        "Asked for by the reviewers: which images a neuron's categories hold. The explorer shows them for every "
        "neuron.",
        "class_consistency.nc",
        whose=BEYOND,
        photographs=True,
    ),
    Section(
        "Two values a neuron (figure 3)",
        ("figure3", "figure3_activation"),
        "Where green stays at the dashed line, two values a neuron are enough. The dotted line is ReLU's own "
        "threshold.",
        "Accuracy survives when every pre-activation becomes one of two values, more so at higher ranks.",
        "quantization.nc",
        (8, 11),
        measured=measured.two_values,
        table=("accuracy", "noise_accuracy", "permuted_accuracy"),
    ),
    Section(
        "What one bit says about the label",
        ("information",),
        "Above: where each neuron's best threshold lies. Below: what its one bit says, beside what its whole value "
        "says.",
        "Each neuron's own best threshold, and the information in its one bit.",
        "quantization.nc",
        whose=BEYOND,
        measured=measured.information,
        table=("best_rank_by_seed", "code_information_by_seed", "value_information_by_seed"),
    ),
    Section(
        "One window of a neuron's range (figure 4)",
        ("figure4",),
        "A U says that the ends of a neuron's range tell more than its middle. A control with the same U says that "
        "this is not learning's doing.",
        "Accuracy after retraining on a window of ten ranks rises with its distance from rank 50, symmetrically, and "
        "is above chance even there.",
        "binarization.nc",
        (9, 10),
        measured=measured.windows,
        table=("accuracy",),
    ),
    Section(
        "Training curves",
        ("training",),
        "The loss of every step, and accuracy at the end of every epoch.",
        "How the network learned.",
        "train.nc",
        whose=BEYOND,
        measured=measured.training,
        table=("train_accuracy", "test_accuracy"),
    ),
)
"""Every figure an experiment draws, in the order of the paper's story."""

GLOSSARY = {
    "site": "a layer's neurons, by name, such as dense2: what enters its activation function",
    "pre-activation": "a neuron's value for one image, before the activation function",
    "average sign": "the mean, over the recordings of a training, of the sign of the loss's derivative by one neuron's "
    "activation on one image: at −1 and 1 it never changed",
    "constant": "|average sign| above 0.9",
    "low, high": "a neuron's two categories: images on which the loss wants it lower (it pushes them down), and higher",
    "AUC": "how well one value of a neuron tells high from low images: 0.5 not at all, 1 always",
    "percentile rank": "the share of images on which the neuron has a lower value",
    "control": "the same measured where what a claim is about is missing, such as on random labels",
}
"""The words that a reader of the page needs."""
