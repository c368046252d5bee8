"""The named configurations, each one network and data set of the paper's, and the embedded digits.

A preset is a `Config`, to be taken as it is or changed by `dataclasses.replace`; its `preset` keeps the name.

>>> from dataclasses import replace
>>> from neuron_mech.config import PRESETS
>>> [name for name in PRESETS if name.startswith("mnist")]
['mnist-relu', 'mnist-sigmoid']
>>> digits = PRESETS["digits"]
>>> shorter = replace(digits, train=replace(digits.train, epochs=5))
>>> shorter.train.epochs, shorter.train.batch_size, digits.train.epochs
(5, 32, 50)
"""

from dataclasses import replace

from neuron_mech.config.fields import Config, Data, Model, Record, Train

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
        # Signs of the first, third and fourth (the paper's section 4), codes of the first, second and fourth (table 1).
        sites=("stage0layer0", "stage2layer0", "stage2layer2", "stage3layer2"),
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
    # The paper's third network, with Keras's weights: it is not trained, so nothing is recorded.
    "imagenet-resnet50": replace(
        _cifar10_resnet50,
        preset="imagenet-resnet50",
        data=Data(name="imagenet2012", pixels=224),
        model=replace(_cifar10_resnet50.model, variant="keras3", weights="keras"),
        record=Record(mode="none", sites=("conv1", "3d", "5c")),
    ),
}
"""{name: `Config`} of every preset: the names that the experiments take, and that a run's config.json may have."""
