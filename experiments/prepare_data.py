"""Download a preset's data set and prepare it as array_record, which every other command reads without TensorFlow.

Needs a network and, for this step alone, TensorFlow: pip install 'neuron_mech[prepare]'.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.command_line import ask, exiting, split_preset
from neuron_mech import datasets
from neuron_mech.errors import InputError, RunError
from neuron_mech.presets import PRESETS


@dataclass(frozen=True)
class Options:
    """Where to."""

    data_dir: Path | None = None
    """Directory to prepare the data in. None means TFDS_DATA_DIR, or ~/tensorflow_datasets."""


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
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record", try_gcs=False)
    try:
        builder.download_and_prepare()
    except Exception as error:  # the network, the disk or the data set's host, as a dozen types
        raise RunError(f"cannot prepare {name} in {builder.data_dir}: {str(error).splitlines()[0][:200]}") from error
    return f"{name} is prepared in {builder.data_path}"


def main() -> None:
    """The command line."""
    by_preset = {preset: config.data.name for preset, config in PRESETS.items()}
    names = by_preset | {name: name for name in by_preset.values()}
    preset, rest = split_preset(sys.argv[1:], "prepare_data", names)
    options = ask(Options, Options(), rest, f"prepare_data {preset}", __doc__ or "")
    print(prepare(names[preset], options.data_dir))


if __name__ == "__main__":
    exiting(main)
