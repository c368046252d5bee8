"""What a run is: a frozen `Config`, the named `PRESETS`, and the random streams that follow from its seed.

Every field that changes a number a run produces is here, and only those: where a run is stored and how often it
is saved belongs to the command line. Two runs with equal configs give equal results, bit for bit on one machine.
"""

import dataclasses
import zlib
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax

from neuron_mech.errors import InputError
from neuron_mech.precision import Arithmetic, Precision

Objective = Literal["margin", "cross_entropy", "keras2017"]
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
    """What becomes of an image of a stream that cannot be decoded. stop: an error that names it. skip: it is left out,
    and counted."""
    train_images: int | Literal["all"] = "all"
    """Training images used: the first so many."""
    test_images: int | Literal["all"] = "all"
    """Test images used: the first so many."""
    augment: bool = False
    """Whether training images are flipped (left and right) and shifted at random, by up to a tenth of their height and
    width. What is probed, tested or retrained on is never changed; online records the images trained on."""
    labels: Literal["true", "random"] = "true"
    """random: the training images' labels dealt to them at random, a control: nothing is left to learn but each sample.
    Test labels stay as they are."""


@dataclass(frozen=True)
class Model:
    """The network. A field that a kind of network does not have is None for it."""

    network: Literal["mlp", "cnn", "resnet50"] = "mlp"
    """mlp: [Dense - activation - dropout] x depth - Dense. cnn: twelve layers [convolution - activation - BatchNorm] in
    four stages of three, max pooling between them, global average pooling and Dense. resnet50: 16 blocks of three
    convolutions, in four stages, each added to what enters it."""
    variant: Literal["keras3", "keras2017", "small"] | None = None
    """Of resnet50. keras3: today's Keras (conv1 and pool1 padded with zeros). keras2017: that of the paper's months,
    Keras 2.0.7 to 2.1.4 ('same' padding in conv1, none in pool1, epsilon 1e-3). small: for small images, conv1 3x3 and
    no pool1. None for the mlp and the cnn."""
    weights: Literal["keras", "random"] | None = None
    """None: trained here. keras: Keras's own for ImageNet. random: the initial ones, never trained."""
    activation: Literal["relu", "sigmoid", "linear"] = "relu"
    """Activation function of the hidden layers; linear: none."""
    width: float = 1.0
    """Factor on the neurons of a hidden layer: 512 in the mlp, 64, 128, 256 and 512 in the stages of the others (and
    four times as many at the end of a block of resnet50)."""
    depth: int | None = 2
    """Hidden layers of the mlp; None for the others."""
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
    """What the step size is divided by after that."""
    batch_size: int = 128
    """Samples a step; an epoch's last, smaller batch is trained on too."""
    epochs: int = 50
    """Passes over the training set."""
    precision: Arithmetic = "default"
    """How training, and all else but recordings, multiplies float32. default: as the device does by itself (TF32 on a
    GPU, bfloat16 on a TPU, plain float32 on a CPU), many times faster there. float32: to its full precision."""
    seed: int = 0
    """Seed of initialisation, shuffling, dropout and the choice of recorded samples and neurons."""


@dataclass(frozen=True)
class Record:
    """Which signs of activation gradients are counted, and when."""

    mode: Literal["probe", "probe-train", "online", "none"] = "probe"
    """probe: fixed samples, dropout off, running statistics. probe-train: fixed samples, dropout and batch
    statistics on. online: the training step's own gradients, for the samples of its batch. none: train only."""
    every: int = 10
    """Batches from one recording to the next: at batches 0, every, 2 every ... of each epoch, before the update.
    online ignores it and records at every batch."""
    samples: int | Literal["all"] = "all"
    """Training samples recorded, chosen at random."""
    site_samples: tuple[str, ...] = ()
    """Sites at which fewer of them are, each as SITE:COUNT: the first COUNT of the same samples. SITE may hold * for
    any characters; of several entries that match a site, the first counts."""
    sites: tuple[str, ...] = ("all",)
    """Sites recorded, by name; all: every site of the network."""
    neurons: int | Literal["all"] = "all"
    """Neurons recorded at each site, chosen at random."""
    derivative: Derivative = "activation"
    """With respect to the activation (the paper) or the pre-activation (where a ReLU adds true zeros)."""
    objective: Objective = "margin"
    """Function whose derivative is recorded. margin: exact signs of the cross-entropy's derivative;
    cross_entropy: through float32 log-softmax; keras2017: through probabilities clipped to [1e-7, 1 - 1e-7]."""
    compare_objectives: tuple[Objective, ...] = ()
    """Further objectives counted from the same forward passes, to compare numerics."""
    precision: Precision = "exact"
    """How recordings multiply. exact: to float32's precision on any device, without which some of the signs are wrong.
    fast: as the device does by itself; on a GPU one to two in a hundred signs of early layers are wrong then. online
    records the training step's own gradients, computed in train.precision."""
    chunk: int = 3000
    """Samples of one forward pass of a probe recording: bounds its memory."""
    saturation: float = 0.99
    """Training accuracy from which training counts as saturated: constancy is reported before and after."""


@dataclass(frozen=True)
class Watch:
    """Pre-activations kept through training, to be drawn when the categories are known: at its end.

    A few neurons are watched closely, for the pictures of single neurons, and all of them widely, for statistics.
    """

    recordings: int = 300
    """Recordings at which the close watch keeps values, evenly spread over the run; 0 keeps nothing at all."""
    samples: int = 5000
    """Recorded samples in the close watch, at most. At a site with positions, one random position of each."""
    neurons: int = 3
    """Random neurons of each site in the close watch."""
    named: tuple[str, ...] = ()
    """Further neurons in the close watch, as SITE:INDEX."""
    wide_recordings: int = 40
    """Recordings at which the wide watch keeps values of every recorded neuron, evenly spread too."""
    wide_samples: int = 1000
    """Recorded samples in the wide watch, at most."""


@dataclass(frozen=True)
class Config:
    """A run. Raises InputError for a value that no run can have."""

    preset: str = "digits"
    """Name of the preset this config started from."""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    record: Record = field(default_factory=Record)
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        self._check_model()
        for name, value, lowest in (
            ("data.train_images", self.data.train_images, 1),
            ("data.test_images", self.data.test_images, 1),
            ("train.batch_size", self.train.batch_size, 1),
            ("train.epochs", self.train.epochs, 1),
            ("record.every", self.record.every, 1),
            ("record.chunk", self.record.chunk, 1),
            ("record.samples", self.record.samples, 1),
            ("record.neurons", self.record.neurons, 1),
            ("watch.recordings", self.watch.recordings, 0),
            ("watch.samples", self.watch.samples, 2),
            ("watch.neurons", self.watch.neurons, 0),
            ("watch.wide_recordings", self.watch.wide_recordings, 2),
            ("watch.wide_samples", self.watch.wide_samples, 2),
            ("train.seed", self.train.seed, 0),
        ):
            if value != "all" and (not isinstance(value, int) or value < lowest):
                raise InputError(f"{name} is {value!r}: give a whole number of at least {lowest}")
        if self.data.pixels is not None and (not isinstance(self.data.pixels, int) or self.data.pixels < 1):
            raise InputError(f"data.pixels is {self.data.pixels!r}: give a whole number of at least 1, or None")
        if self.watch.recordings == 1:
            raise InputError("watch.recordings is 1: give at least 2, the first and the last, or 0 to keep nothing")
        if self.train.seed >= 2**32:
            raise InputError(f"train.seed is {self.train.seed}: give a seed below 2**32")
        if not 0 < self.train.learning_rate < float("inf"):
            raise InputError(f"train.learning_rate is {self.train.learning_rate}: give a positive, finite step size")
        if not 0 < self.train.drop_after <= 1:
            raise InputError(f"train.drop_after is {self.train.drop_after}: give a share above 0, at most 1")
        if not 0 < self.train.drop_factor < float("inf"):
            raise InputError(f"train.drop_factor is {self.train.drop_factor}: give a positive, finite factor")
        if not 0 < self.record.saturation <= 1:
            raise InputError(f"record.saturation is {self.record.saturation}: give an accuracy above 0, at most 1")
        if not self.record.sites:
            raise InputError("record.sites is empty: name at least one site, or say all")
        for entry in self.record.site_samples:
            site, _, count = entry.rpartition(":")
            if not site or not count.isdecimal() or not int(count):
                raise InputError(
                    f"record.site_samples has {entry!r}: give SITE:COUNT with a count of at least 1, such as conv1:500"
                )
        if self.record.mode == "online" and (self.record.objective != "margin" or self.record.compare_objectives):
            raise InputError(
                "record.mode online counts the training loss's own gradients, whose signs are the margin's: "
                "leave record.objective at margin and record.compare_objectives empty, or record in mode probe"
            )
        if len(set(self.objectives)) < len(self.objectives):
            raise InputError(f"record.compare_objectives repeats an objective: {', '.join(self.objectives)}")

    def _check_model(self) -> None:
        model = self.model
        for name, owner in (("depth", "mlp"), ("dropout", "mlp"), ("variant", "resnet50")):
            value = getattr(model, name)
            if value is None and model.network == owner:
                raise InputError(f"model.{name} is None, but the network {owner} needs one: give it a value")
            if value is not None and model.network != owner:
                raise InputError(
                    f"model.{name} is {value}, which the network {model.network} does not have: leave it at None"
                )
        if model.depth is not None and (not isinstance(model.depth, int) or model.depth < 1):
            raise InputError(f"model.depth is {model.depth!r}: give a whole number of at least 1")
        if model.dropout is not None and not 0 <= model.dropout < 1:
            raise InputError(f"model.dropout is {model.dropout}: give a share of at least 0 and below 1")
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


def random_stream(seed: int, purpose: str) -> jax.Array:
    """A typed key for one purpose ("shuffling", "dropout" ...), independent of every other purpose's.

    Folding in a step or an epoch number gives that step's randomness: a resumed run repeats it exactly.
    """
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))


_mnist = Config(
    preset="mnist-relu",
    data=Data(name="mnist"),
    record=Record(every=10, samples=30_000),
)

_cifar10 = Config(
    preset="cifar10-relu",
    data=Data(name="cifar10", augment=True),
    model=Model(network="cnn", depth=None, dropout=None),
    train=Train(learning_rate=0.01, drop_after=0.6, batch_size=32, epochs=100),
    record=Record(
        every=100,
        samples=10_000,
        sites=("stage0layer0", "stage2layer2", "stage3layer2"),
        site_samples=("stage3layer2:10000", "stage2layer2:5000", "*:500"),
        chunk=250,
    ),
)

_cifar10_resnet50 = Config(
    preset="cifar10-resnet50",
    data=Data(name="cifar10", augment=True),
    model=Model(network="resnet50", variant="small", depth=None, dropout=None),
    train=Train(learning_rate=0.02, drop_after=0.6, drop_factor=10.0, batch_size=128, epochs=100),
    record=Record(
        every=100,
        samples=2_000,
        sites=("conv1", "3d", "5c"),
        site_samples=("5c:2000", "*:500"),
        chunk=100,
    ),
)

PRESETS: dict[str, Config] = {
    # The embedded 8x8 digits: no download. 45 batches an epoch, 9 recordings each: 450 in all.
    "digits": Config(preset="digits", train=Train(batch_size=32), record=Record(every=5)),
    # The paper's MNIST networks (appendix A): 469 batches an epoch, 47 recordings each: 2,350 in all.
    "mnist-relu": _mnist,
    "mnist-sigmoid": replace(
        _mnist,
        preset="mnist-sigmoid",
        model=Model(activation="sigmoid"),
        train=replace(_mnist.train, learning_rate=1.0),
    ),
    # The paper's CIFAR-10 networks (appendix B): 1,563 batches an epoch, 16 recordings each: 1,600 in all.
    "cifar10-relu": _cifar10,
    "cifar10-linear": replace(_cifar10, preset="cifar10-linear", model=replace(_cifar10.model, activation="linear")),
    # The same data in the network of the paper's third kind: 391 batches an epoch, 4 recordings each: 400 in all.
    "cifar10-resnet50": _cifar10_resnet50,
    # The paper's third network, with Keras's weights: it is not trained here, so nothing is recorded.
    "imagenet-resnet50": replace(
        _cifar10_resnet50,
        preset="imagenet-resnet50",
        data=Data(name="imagenet2012", pixels=224),
        model=replace(_cifar10_resnet50.model, variant="keras3", weights="keras"),
        record=Record(mode="none", sites=("conv1", "3d", "5c")),
    ),
}
