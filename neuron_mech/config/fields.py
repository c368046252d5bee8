"""The configuration of a run: a frozen `Config` of all fields that change its results, and no others.

Where a run is stored and how often it is saved are options of the command line. Two runs with equal configs give equal
results, bit for bit on one machine.
"""

import dataclasses
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from neuron_mech.config.limits import LIMITS
from neuron_mech.errors import InputError
from neuron_mech.precision import Arithmetic, Precision

Objective = Literal["margin", "cross_entropy", "keras2017", "keras2017-float16"]
Derivative = Literal["activation", "pre_activation"]


@dataclass(frozen=True)
class Data:
    """The samples."""

    name: str = "digits"
    """digits: scikit-learn's embedded 8x8 digits. Otherwise an image data set of TensorFlow Datasets, by its name
    there: mnist, cifar10, imagenet2012 ..."""
    pixels: int | None = None
    """Height and width of the images as the network sees them, interpolated (bilinear) where they are stored in another
    size; None: as they are stored. Of a stream: the short side becomes 8/7 of it, and the centre is cut out."""
    stream: bool = False
    """Whether images are read from disk as they are needed, rather than kept on the device. Data sets whose images
    differ in size always are. Nothing is trained on a stream."""
    corrupt: Literal["stop", "skip"] = "stop"
    """What to do with an image of a stream that cannot be decoded. stop: end with an error that names it. skip: leave
    it out, and count it."""
    train_images: int | Literal["all"] = "all"
    """Number of training images used: the first of them."""
    test_images: int | Literal["all"] = "all"
    """Number of test images used: the first of them."""
    augment: bool = False
    """Whether training images are flipped (left and right) and shifted at random, by up to a tenth of their height and
    width. Images for recordings, tests and retraining are never changed; mode online records the changed ones."""
    labels: Literal["true", "random"] = "true"
    """random: the training labels are permuted at random, a control in which nothing but each single sample can be
    learned. Test labels stay as they are."""


@dataclass(frozen=True)
class Model:
    """The network. Fields that do not apply to a network are None."""

    network: Literal["mlp", "cnn", "resnet50"] = "mlp"
    """mlp: [Dense - activation - dropout] x depth - Dense. cnn: twelve layers [convolution - activation - BatchNorm] in
    four stages of three (or depth), max pooling between them, global average pooling and Dense. resnet50: 16 blocks of
    three convolutions, in four stages, each added to what enters it."""
    variant: Literal["keras3", "keras2017", "small"] | None = None
    """Variant of resnet50. keras3: today's Keras (conv1 and pool1 padded with zeros). keras2017: Keras 2.0.7 to 2.1.4
    of the paper's time ('same' padding in conv1, none in pool1, epsilon 1e-3). small: for small images, conv1 3x3, no
    pool1. None for the mlp and the cnn."""
    weights: Literal["keras", "random"] | None = None
    """None: trained by the run. keras: Keras's weights for ImageNet. random: the initial ones, never trained."""
    activation: Literal["relu", "sigmoid", "linear"] = "relu"
    """Activation function of the hidden layers; linear: none."""
    width: float = 1.0
    """Factor on the neurons of a hidden layer: 512 in the mlp, 64, 128, 256 and 512 in the stages of the others (and
    four times as many at the end of a block of resnet50)."""
    depth: int | None = 2
    """Hidden layers of the mlp; layers of each of the cnn's four stages, None: the paper's three; None for resnet50."""
    dropout: float | None = 0.5
    """Share of the mlp's activations set to zero in training, 0 <= dropout < 1; None for the others."""


@dataclass(frozen=True)
class Train:
    """Plain stochastic gradient descent (momentum 0)."""

    learning_rate: float = 0.1
    """Step size."""
    drop_after: float = 1.0
    """Share of the epochs, rounded to whole ones, after which the step size is divided by drop_factor: 0.6 is after
    epoch 60 of 100, and after epoch 18 of 30. 1: never."""
    drop_factor: float = 5.0
    """Divisor of the step size after that."""
    batch_size: int = 128
    """Samples in a batch; an epoch's last, smaller batch is used too."""
    epochs: int = 50
    """Passes over the training set."""
    precision: Arithmetic = "default"
    """Precision of float32 products in training and all else but recordings. default: the device's own (TF32 on a GPU,
    bfloat16 on a TPU, float32 on a CPU), which is many times faster there. float32: full precision."""
    seed: int = 0
    """Seed of initialisation, shuffling, dropout and the choice of recorded samples and neurons."""


@dataclass(frozen=True)
class Record:
    """Which signs of activation gradients are recorded, and when."""

    mode: Literal["eval", "train", "online", "none"] = "eval"
    """eval: fixed samples, dropout off, running statistics. train: fixed samples, dropout and batch
    statistics on. online: the training step's own gradients, for the samples of its batch. none: train only."""
    every: int = 10
    """Batches from one recording to the next: at batches 0, every, 2 every ... of each epoch, before the update.
    online ignores it and records at every batch."""
    when: Literal["before", "after"] = "before"
    """Whether a recording is made before or after its batch's update. online records each batch's own gradients, so
    before."""
    samples: int | Literal["all"] = "all"
    """Training samples recorded, chosen at random."""
    site_samples: tuple[str, ...] = ()
    """Sites at which fewer samples are recorded, each as SITE:COUNT: the first COUNT of them. SITE may contain * for
    any characters; of several entries that match a site, the first counts."""
    sites: tuple[str, ...] = ("all",)
    """Sites recorded, by name; all: every site of the network."""
    neurons: int | Literal["all"] = "all"
    """Neurons recorded at each site, chosen at random."""
    derivative: Derivative = "activation"
    """With respect to the activation (the paper) or the pre-activation (where a ReLU adds true zeros)."""
    objective: Objective = "margin"
    """Function whose derivative is recorded. margin: exact signs of the cross-entropy's derivative;
    cross_entropy: through float32 log-softmax; keras2017: through probabilities clipped to [1e-7, 1 - 1e-7];
    keras2017-float16: the same, stored as float16 of its share in a batch's mean, where small ones become zero."""
    compare_objectives: tuple[Objective, ...] = ()
    """Further objectives recorded from the same forward passes, to compare numerics."""
    precision: Precision = "exact"
    """Precision of products in recordings. exact: that of float32 on any device. fast: the device's own; on a GPU one
    to two in a hundred signs of early layers are then wrong. online records the training step's own gradients, computed
    in train.precision."""
    chunk: int = 3000
    """Samples in one forward pass of a recording: bounds its memory."""
    saturation: float = 0.99
    """Training accuracy from which training counts as saturated: constancy is reported before and after."""


@dataclass(frozen=True)
class Watch:
    """Pre-activations kept through training, to be drawn at its end, when the categories are known.

    The close watch has a few neurons, for pictures of single neurons; the wide watch has all, for statistics.
    """

    recordings: int = 300
    """Recordings at which the close watch keeps values, evenly spread over the run; 0: there are no watches."""
    samples: int = 5000
    """Largest number of recorded samples in the close watch. At a site with positions, one random position of each."""
    neurons: int = 3
    """Random neurons of each site in the close watch."""
    named: tuple[str, ...] = ()
    """Further neurons in the close watch, as SITE:INDEX."""
    wide_recordings: int = 40
    """Recordings at which the wide watch keeps values of every recorded neuron, evenly spread over the run."""
    wide_samples: int = 1000
    """Largest number of recorded samples in the wide watch."""
    weights: int = 90
    """Recordings at which all parameters are kept, evenly spread over the run; 0: none. They are kept only for networks
    without running statistics, and where they take at most 256 MiB."""


@dataclass(frozen=True)
class Config:
    """The configuration of a run: sections of fields, all with defaults, frozen and compared by value.

    Raises InputError, when it is made, for a value of a wrong type, outside of its field's limits (LIMITS), or that
    does not go with another's. What only data or network can tell, such as names of sites, is checked by a run.

    >>> from neuron_mech.config import Config, Train, differences
    >>> differences(Config(), Config(train=Train(epochs=5)))
    ['train.epochs: 50 / 5']
    >>> Config(train=Train(epochs=0))
    Traceback (most recent call last):
    neuron_mech.errors.InputError: train.epochs is 0: give a whole number of at least 1
    """

    preset: str = "digits"
    """Name of the preset that this config is based on."""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    record: Record = field(default_factory=Record)
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        _check_kinds(self)
        self._check_model()
        for name, limits in LIMITS.items():
            section, field = name.split(".")
            value = getattr(getattr(self, section), field)
            if value != "all" and value is not None:
                limits.check(name, value)
        if self.watch.recordings == 1:
            raise InputError("watch.recordings is 1: give at least 2, the first and the last, or 0 to keep nothing")
        if not self.record.sites:
            raise InputError("record.sites is empty: name at least one site, or say all")
        for entry in self.record.site_samples:
            if (numbered(entry) or ("", 0))[1] < 1:
                raise InputError(
                    f"record.site_samples has {entry[:80]!r}: give SITE:COUNT with a count of at least 1, such as "
                    "conv1:500"
                )
        if self.record.mode == "online" and (self.record.objective != "margin" or self.record.compare_objectives):
            raise InputError(
                "record.mode online counts the training loss's own gradients, whose signs are the margin's: "
                "leave record.objective at margin and record.compare_objectives empty, or record in mode eval"
            )
        if self.record.mode == "online" and self.record.when == "after":
            raise InputError(
                "record.when is after, but record.mode online counts the gradients that the update is made of: leave "
                "record.when at before, or record in mode eval"
            )
        if len(set(self.objectives)) < len(self.objectives):
            raise InputError(f"record.compare_objectives repeats an objective: {', '.join(self.objectives)}")

    def _check_model(self) -> None:
        model = self.model
        for name, owner in (("depth", "mlp"), ("dropout", "mlp"), ("variant", "resnet50")):
            value = getattr(model, name)
            if name == "depth" and model.network == "cnn":
                continue
            if value is None and model.network == owner:
                raise InputError(f"model.{name} is None, but the network {owner} needs one: give it a value")
            if value is not None and model.network != owner:
                raise InputError(
                    f"model.{name} is {value}, which the network {model.network} does not have: leave it at None"
                )
        narrowest = 512 if model.network == "mlp" else 64
        if not 0 < model.width <= 64 or round(narrowest * model.width) < 1:
            raise InputError(f"model.width is {model.width}: give a factor from 1/{narrowest} to 64")
        if model.weights == "keras":
            if model.variant not in ("keras3", "keras2017"):
                kind = f"{model.network} ({model.variant})" if model.variant else model.network
                raise InputError(
                    f"model.weights is keras, which the network {kind} cannot have: choose resnet50 in its variant "
                    "keras3 or keras2017, or leave it at None"
                )
            if model.width != 1 or model.activation != "relu":
                raise InputError(
                    f"model.weights is keras, but model.width is {model.width} and model.activation is "
                    f"{model.activation}: leave them at 1 and relu"
                )

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The recorded objectives, the main one first."""
        return (self.record.objective, *self.record.compare_objectives)


def fields(config: Config) -> dict[str, Any]:
    """The preset, and every field's value as `section.field`."""
    tree = dataclasses.asdict(config)
    sections = {k: v for k, v in tree.items() if isinstance(v, dict)}
    return {"preset": tree["preset"]} | {f"{s}.{k}": v for s, of in sections.items() for k, v in of.items()}


def differences(one: Config, other: Config) -> list[str]:
    """The fields in which two configs differ, each as `section.field: value / other value`."""
    a, b = fields(one), fields(other)
    return [f"{name}: {a[name]!r} / {b[name]!r}" for name in a if a[name] != b[name]]


def numbered(entry: str) -> tuple[str, int] | None:
    """(SITE, NUMBER) of the text `SITE:NUMBER`; None for other text."""
    site, _, number = entry.rpartition(":")
    return (site, int(number)) if site and number.isdecimal() and len(number) < 12 else None


def _check_kinds(config: Config) -> None:
    """Raise InputError for a field with a value of a wrong type: a config may come from a file."""
    for section in dataclasses.fields(Config)[1:]:
        of = getattr(config, section.name)
        for name, hint in get_type_hints(type(of)).items():
            if not _fits(value := getattr(of, name), hint):
                raise InputError(f"{section.name}.{name} is {repr(value)[:80]}: give {_said(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(each, get_args(hint)[0]) for each in value)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint is str:
        return isinstance(value, str) and value.isprintable()
    return isinstance(value, (int, float) if hint is float else hint)


def _said(hint: Any) -> str:
    """A type in words: `int or 'all'`."""
    if get_origin(hint) in (Literal, Union, UnionType):
        return " or ".join(repr(each) if isinstance(each, str) else _said(each) for each in get_args(hint))
    words = {NoneType: "None", str: "text in one line", int: "a whole number", float: "a number", bool: "True or False"}
    return words.get(hint, "a list of text")
