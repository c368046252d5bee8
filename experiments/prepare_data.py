"""Download a preset's data set and prepare it as array_record, which every other command reads without TensorFlow.

Needs a network and, for this step alone, TensorFlow: pip install 'neuron_mech[prepare]'. For imagenet-resnet50 Keras's
weights come first, from a file or its server; the latter needs Keras: pip install 'neuron_mech[resnet]'.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.command_line import exiting
from experiments.command_line.arguments import ask, split_preset
from neuron_mech.config import PRESETS
from neuron_mech.errors import InputError, RunError, first_line
from neuron_mech.training import datasets, pretrained
from neuron_mech.training.models import keras_weights


@dataclass(frozen=True)
class Options:
    """Where to."""

    data_dir: Path | None = None
    """Directory to prepare the data in. None means TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    weights: Path | None = None
    """File that Keras's weights are read from: .h5, .weights.h5 or .keras. None means Keras's server."""


def prepare_weights(data_dir: Path | None, file: Path | None) -> str:
    """Keep Keras's weights where they are not, or where a file is given; returns a line that says where they are."""
    said = f"Keras's weights are in {pretrained.directory(data_dir)}"
    if file is None:
        try:
            pretrained.restore(pretrained.NETWORK, data_dir)
            return said
        except InputError:
            pass  # which is why we are here
    layers = keras_weights.downloaded() if file is None else keras_weights.of_file(file)
    pretrained.save(keras_weights.variables(layers, pretrained.NETWORK), data_dir)
    return said


def prepare(name: str, data_dir: Path | None) -> str:
    """Prepare a data set where it is not; returns a line that says where it is."""
    if name == "digits":
        return "digits come with scikit-learn: nothing to prepare"
    try:
        return f"{name} is prepared in {datasets.builder(name, data_dir).data_path}"
    except InputError:
        pass  # which is why we are here
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        raise InputError(f"preparing {name} needs TensorFlow once: pip install 'neuron_mech[prepare]'") from None
    builder = datasets.tensorflow_datasets().builder(name, data_dir=data_dir, file_format="array_record", try_gcs=False)
    try:
        builder.download_and_prepare()
    except Exception as error:  # the network, the disk or the data set's host, as a dozen types
        raise RunError(f"cannot prepare {name} in {builder.data_dir}: {first_line(error)}") from error
    return f"{name} is prepared in {builder.data_path}"


def main() -> None:
    """The command line."""
    by_preset = {preset: config.data.name for preset, config in PRESETS.items()}
    names = by_preset | {name: name for name in by_preset.values()}
    preset, rest = split_preset(sys.argv[1:], "prepare_data", names)
    options = ask(Options, Options(), rest, f"prepare_data {preset}", __doc__ or "")
    if preset in PRESETS and PRESETS[preset].model.weights == "keras":
        print(prepare_weights(options.data_dir, options.weights))
    elif options.weights is not None:
        raise InputError(f"--weights is {options.weights}, but {preset} has no weights of Keras's: leave it out")
    print(prepare(names[preset], options.data_dir))


if __name__ == "__main__":
    exiting(main)
