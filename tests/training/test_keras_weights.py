"""Keras's weights: files of every version, by name; kept, verified, and said to be missing."""

import sys

import h5py
import jax
import numpy as np
import pytest

from experiments import prepare_data
from keras_models import NARROW, assembled, disturbed
from neuron_mech.errors import InputError, RunError
from neuron_mech.training import pretrained
from neuron_mech.training.models import ResNet50, keras_weights
from neuron_mech.training.models.resnet import BLOCKS

SITES = ("conv1", *(f"{stage}{letter}" for stage, letters in BLOCKS.items() for letter in letters))
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's variables


@pytest.fixture(scope="module")
def narrow(keras):
    """(a narrow Keras model with the names of 2017, ours, the variables of both)."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = disturbed(keras, assembled(keras, "keras2017", 32))
    model = ResNet50(variant="keras2017", neurons=NARROW, classes=10)
    return theirs, model, keras_weights.variables(keras_weights.of_model(theirs), model)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def in_old_format(path, layers, name):
    """Weights as Keras 1 and 2 wrote them: `name(layer, weight)` is the weight's; the list of layers in two parts."""
    listed = [layer.encode() for layer in ("input_1", *layers, "activation_1")]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names0"], file.attrs["layer_names1"] = listed[:50], listed[50:]
        for layer in ("input_1", *layers, "activation_1"):
            group, weights = file.create_group(layer), layers.get(layer, {})
            group.attrs["weight_names"] = [name(layer, weight).encode() for weight in weights]
            for weight, values in weights.items():
                group.create_dataset(name(layer, weight), data=values)


KERAS_1 = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}


@pytest.mark.parametrize(
    "name",
    [
        lambda layer, weight: f"{layer}_{KERAS_1.get(weight, weight)}_1:0",
        lambda layer, weight: f"{layer}_{KERAS_1.get(weight, weight)}",
        lambda layer, weight: f"{layer}/{weight}:0",
        lambda layer, weight: f"{layer}_1/{weight}_2:0",
    ],
    ids=["Keras 1", "Keras 1, Theano", "Keras 2", "Keras 2, again"],
)
def test_old_files_are_read_by_name(narrow, tmp_path, name):
    theirs, model, variables = narrow
    layers = keras_weights.of_model(theirs)
    in_old_format(tmp_path / "old.h5", dict(reversed(layers.items())), name)
    same(keras_weights.variables(keras_weights.of_file(tmp_path / "old.h5"), model), variables)


def test_a_variance_is_no_standard_deviation(narrow):
    theirs, _, variables = narrow
    layer = theirs.get_layer("bn3d_branch2b")
    np.testing.assert_array_equal(variables["batch_stats"]["3d_branch2b_norm"]["var"], layer.get_weights()[3])
    np.testing.assert_array_equal(variables["params"]["3d_branch2b_norm"]["scale"], layer.get_weights()[0])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras says that .h5 is old
@pytest.mark.parametrize("file", ["all.keras", "all.h5", "weights.weights.h5"])
def test_files_of_today_are_read_by_name(narrow, tmp_path, file):
    theirs, model, variables = narrow
    if file.startswith("weights"):
        theirs.save_weights(tmp_path / file)
    else:
        theirs.save(tmp_path / file)
    same(keras_weights.variables(keras_weights.of_file(tmp_path / file), model), variables)


def without(layers, name, *weights):
    return {k: {w: v for w, v in of.items() if w not in weights} for k, of in layers.items() if k != name or weights}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: without(w, "res4c_branch2b"), r"no layer 'res4c_branch2b' or 'conv4_block3_2_conv', which ResNet50"),
        (lambda w: without(w, "fc1000"), r"no layer 'fc1000' or 'probs' or 'predictions'"),
        (lambda w: without(w, "bn2a_branch1", "moving_variance"), r"no var in the layer 'bn\w+_branch\w+' or 'conv"),
        (lambda w: w | {"res4g_branch2a": w["conv1"]}, r"a layer 'res4g_branch2a', which is none of ResNet50's"),
        (
            lambda w: w | {"conv1_conv": w["conv1"]},
            r"layer 'conv1_conv' is there twice: by its old name",
        ),
        (lambda w: w | {"conv1": w["conv1"] | {"gain": w["conv1"]["bias"]}}, r"'conv1' has a weight 'gain', which Res"),
        (
            lambda w: w | {"conv1": {k: v[..., :1] for k, v in w["conv1"].items()}},
            r"layer 'conv1' has a kernel of shape \[7, 7, 3, 1\], ResNet50's is \[7, 7, 3, 2\]",
        ),
    ],
)
def test_a_layer_that_does_not_fit_is_named(narrow, damage, message):
    theirs, model, _ = narrow
    with pytest.raises(InputError, match=message):
        keras_weights.variables(damage(keras_weights.of_model(theirs)), model)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    def refused(path, message):
        with pytest.raises(InputError, match=rf"--weights {path} cannot be read as weights of Keras \({message}"):
            keras_weights.of_file(path)

    (text := tmp_path / "text.h5").write_text("nothing of the kind")
    refused(text, "Unable to .*open file")
    refused(tmp_path / "nowhere.h5", "")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    refused(tmp_path / "other.h5", "it names no layers")
    with h5py.File(tmp_path / "nameless.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros((1, 1, 3, 2))
    refused(tmp_path / "nameless.weights.h5", "its layers have no names")


def test_weights_are_kept_verified_and_said_to_be_missing(narrow, tmp_path, monkeypatch):
    theirs, model, variables = narrow
    with pytest.raises(
        InputError, match=r"network has 10 classes and \(2, 3, 4, 5\) neurons by stage, Keras's 1000 and"
    ):
        pretrained.restore(model, tmp_path)
    monkeypatch.setattr(pretrained, "NETWORK", model)
    with pytest.raises(InputError, match=rf"--data-dir {tmp_path} has no weights .* run `python -m .*prepare_data "):
        pretrained.restore(model, tmp_path)
    assert not list(tmp_path.iterdir())
    file, data_dir = tmp_path / "old.h5", tmp_path / "data"
    in_old_format(file, keras_weights.of_model(theirs), lambda layer, weight: f"{layer}/{weight}:0")
    where = data_dir / "keras-resnet50" / "checkpoints"
    assert prepare_data.prepare_weights(data_dir, file) == f"Keras's weights are in {where}"
    same(pretrained.restore(model, data_dir), variables)
    # What is there is not downloaded again, and a file takes its place.
    monkeypatch.setattr(keras_weights, "downloaded", lambda: pytest.fail("downloaded again"))
    prepare_data.prepare_weights(data_dir, None)
    doubled = {k: {w: 2 * v for w, v in of.items()} for k, of in keras_weights.of_model(theirs).items()}
    in_old_format(file, doubled, lambda layer, weight: f"{layer}/{weight}:0")
    prepare_data.prepare_weights(data_dir, file)
    same(pretrained.restore(model, data_dir), jax.tree.map(lambda leaf: 2 * leaf, variables))
    # What is damaged is said, and what cannot be written.
    largest = max((f for f in where.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-20])
    with pytest.raises(RunError, match=rf"does not verify .* remove {where.parent} to begin again"):
        pretrained.restore(model, data_dir)
    with pytest.raises(RunError, match=rf"cannot write to {file}/keras-resnet50/checkpoints .* another --data-dir"):
        prepare_data.prepare_weights(file, file)


def test_weights_that_cannot_be_downloaded_are_said_in_a_line(keras, monkeypatch):
    def broken(weights):
        raise Exception("URL fetch failure on https://example.org: None\nmore")

    monkeypatch.setattr(keras.applications, "ResNet50", broken)
    with pytest.raises(RunError, match=r"cannot download Keras's weights \(URL fetch failure .*None\): .* --weights$"):
        keras_weights.downloaded()
    monkeypatch.setitem(sys.modules, "keras", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install 'neuron_mech\[resnet\]', or give their file with --weights"):
        keras_weights.downloaded()
