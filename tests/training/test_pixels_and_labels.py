"""What a data set's files hold is what a network sees, in memory as in a stream; and labels are of the classes."""

import io
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import neuron_mech
import prepared
from drawn import started
from neuron_mech.config import Data
from neuron_mech.errors import InputError, RunError
from neuron_mech.training import datasets
from neuron_mech.training.datasets import Dataset, Samples

DRAW = np.random.default_rng(0)


def both(data_dir, pixels=None):
    """The training images of `made_up` as a network sees them: in memory, and streamed."""
    whole = datasets.load(Data("made_up"), data_dir).train.inputs
    stream = datasets.load(Data("made_up", stream=True, pixels=pixels), data_dir, workers=0).train
    return np.asarray(whole), np.concatenate([np.asarray(chunk.inputs) for chunk in stream.chunks(7)])


def split(records):
    return {"train": records, "test": records}


KINDS = [
    ("grey", (8, 8, 1), np.uint8, 255),
    ("RGB", (8, 8, 3), np.uint8, 255),
    ("RGBA", (8, 8, 4), np.uint8, 255),
    ("16-bit grey", (8, 8, 1), np.uint16, 65535),
]


@pytest.mark.parametrize(("name", "shape", "kind", "largest"), KINDS, ids=[kind[0] for kind in KINDS])
@pytest.mark.parametrize("stored", ["encoded", "array"])
def test_pixels_are_the_stored_values_over_the_largest_there_can_be(tmp_path, stored, name, shape, kind, largest):
    images = DRAW.integers(0, largest + 1, (20, *shape), dtype=kind)
    feature = tfds.features.Image(shape=shape, dtype=kind, encoding_format="png")
    if stored == "array":
        feature = tfds.features.Tensor(shape=shape, dtype=kind)
    as_stored = images if stored == "array" else [prepared.encoded(image) for image in images]
    prepared.write(tmp_path, split([(image, 1) for image in as_stored]), feature)
    memory, stream = both(tmp_path)
    np.testing.assert_allclose(memory, images / largest, rtol=2e-7)
    np.testing.assert_array_equal(stream, memory)
    assert datasets.load(Data("made_up", stream=True), tmp_path, 0).train.blank.inputs.shape == (1, *shape)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGB"])
def test_whatever_a_file_holds_it_is_one_image_in_memory_and_streamed(tmp_path, mode):
    files, expected = [], []
    for _ in range(5):
        image = Image.fromarray(DRAW.integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert(mode)
        image.save(file := io.BytesIO(), "PNG")
        files.append(file.getvalue())
        expected.append(np.asarray(image.convert("L"))[..., None] / 255)
    prepared.write(tmp_path, split([(file, 1) for file in files]))
    memory, stream = both(tmp_path)
    np.testing.assert_allclose(memory, expected, rtol=2e-7)
    np.testing.assert_array_equal(stream, memory)


def test_sixteen_bits_are_cropped_as_eight_are(tmp_path):
    images = DRAW.integers(0, 256, (3, 40, 30), dtype=np.uint8)
    seen = []
    for name, kind, factor in (("eight", np.uint8, 1), ("sixteen", np.uint16, 257)):
        records = [(prepared.encoded((image.astype(kind) * factor)[..., None]), 1) for image in images]
        feature = tfds.features.Image(shape=(None, None, 1), dtype=kind, encoding_format="png")
        prepared.write(tmp_path / name, split(records), feature)
        stream = datasets.load(Data("made_up", pixels=14), tmp_path / name, 0).train
        seen += [np.asarray(chunk.inputs) for chunk in stream.chunks(9)]
    assert seen[1].shape == (3, 14, 14, 1)
    np.testing.assert_allclose(seen[0], seen[1], atol=1.2 / 255)


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (tfds.features.Image(shape=(8, 8, 1), dtype=np.float32), r"float32\[8, 8, 1\]"),
        (tfds.features.Image(shape=(8, 8, 3), dtype=np.uint16), r"uint16\[8, 8, 3\]"),
        (tfds.features.Tensor(shape=(8, 8, 1), dtype=np.float32), r"float32\[8, 8, 1\]"),
        (tfds.features.Tensor(shape=(8, 8), dtype=np.uint8), r"uint8\[8, 8\]"),
        (tfds.features.Tensor(shape=(8, 8, 1), dtype=np.int8), r"int8\[8, 8, 1\]"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_read_exactly_is_refused(tmp_path, feature, said, stream):
    stored = np.zeros(feature.shape, feature.np_dtype) if type(feature) is tfds.features.Tensor else b"unread"
    prepared.write(tmp_path, split([(stored, 1)]), feature)
    with pytest.raises(InputError, match=f"images are {said}: name a data set of images of 8 bits"):
        datasets.load(Data("made_up", stream=stream), tmp_path, 0)


def test_an_image_of_other_bits_than_the_feature_says_is_named(tmp_path):
    grey = DRAW.integers(0, 256, (8, 8, 1), dtype=np.uint8)
    records = [(prepared.encoded(grey), 1), (prepared.encoded(grey.astype(np.uint16) * 257), 1)]
    prepared.write(tmp_path / "8", split(records))
    prepared.write(
        tmp_path / "16",
        split(records[::-1]),
        tfds.features.Image(shape=(8, 8, 1), dtype=np.uint16, encoding_format="png"),
    )
    for bits, mode in ((8, "I;16"), (16, "L")):
        said = rf"record 1 of made_up train: its values are of Pillow's mode {mode}, not of {bits} bits"
        with pytest.raises(InputError, match=said):
            datasets.load(Data("made_up"), tmp_path / str(bits))
        with pytest.raises(RunError, match=said):
            list(datasets.load(Data("made_up", stream=True), tmp_path / str(bits), 0).train.chunks(9))


def test_what_else_is_installed_decides_nothing(tmp_path, monkeypatch):
    """TensorFlow Datasets decodes with OpenCV where that is there, to other values of a JPEG."""
    images = DRAW.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    records = [(prepared.encoded(image, "JPEG"), 1) for image in images]
    prepared.write(tmp_path, split(records), tfds.features.Image(shape=(8, 8, 3)))
    expected = both(tmp_path)[0]
    zeros = SimpleNamespace(
        imdecode=lambda *_: np.zeros((8, 8, 3), np.uint8),
        cvtColor=lambda image, _: image,
        IMREAD_UNCHANGED=-1,
        COLOR_BGR2RGB=4,
        COLOR_BGRA2RGBA=5,
    )
    monkeypatch.setattr("tensorflow_datasets.core.features.image_feature.cv2", zeros)
    memory, stream = both(tmp_path)
    np.testing.assert_array_equal(memory, expected)
    np.testing.assert_array_equal(stream, expected)


# --- Labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-1, 10])
@pytest.mark.parametrize("where", ["train", "test"])
def test_labels_of_no_class_are_refused_and_named(tmp_path, wrong, where):
    image = prepared.encoded(np.zeros((8, 8, 1), np.uint8))
    right = [(image, label) for label in range(10)]
    splits = {"train": right, "test": right, "validation": right} | {where: [*right, (image, wrong)]}
    prepared.write(tmp_path, splits)
    said = rf"record 10 of made_up {where}: its label: {wrong} is none of 10 classes, which are 0 to 9"
    with pytest.raises(InputError, match=said):
        datasets.load(Data("made_up"), tmp_path)
    stream = datasets.load(Data("made_up", stream=True), tmp_path, 0)
    with pytest.raises(RunError, match=said):
        list(getattr(stream, where).chunks(5))


def test_a_single_class_is_refused(tmp_path):
    image = prepared.encoded(np.zeros((8, 8, 1), np.uint8))
    prepared.write(tmp_path, split([(image, 0)]), label=tfds.features.ClassLabel(num_classes=1))
    for stream in (False, True):
        with pytest.raises(InputError, match="of 1 class, and a margin is between two at least"):
            datasets.load(Data("made_up", stream=stream), tmp_path, 0)


@pytest.mark.parametrize("wrong", [-1, 10])
def test_every_data_set_is_looked_at(digits, wrong):
    labels = digits.test.labels.at[3].set(wrong)
    with pytest.raises(InputError, match=rf"test labels: {wrong} is none of 10 .*\(in 1 of 360, first in row 3\)"):
        Dataset("made up", digits.train, digits.test.replace(labels=labels), 10)
    assert isinstance(digits.train, Samples)


class Net(nn.Module):
    classes: int = 4

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes)(nn.relu(nn.Dense(16)(x)))


@pytest.mark.parametrize(("labels", "classes"), [((-1,), 4), ((4,), 4), ((0,), 1)])
def test_own_holds_labels_against_the_network_s_classes(labels, classes):
    net, x = Net(classes), jnp.ones((40, 5))
    variables = started(net, 0, x[:1])
    wrong = jnp.zeros(40, jnp.int32).at[37].set(*labels)  # past what is looked at in other ways
    said = "is none of 4 classes" if classes > 1 else "of 1 class, and a margin"
    with pytest.raises(InputError, match=said):
        neuron_mech.recorder(net, variables, x, wrong, "Dense_0", recordings=2)
    with pytest.raises(InputError, match=said):
        neuron_mech.signs(net, variables, x, wrong, "Dense_0")
    loss = lambda outputs, labels: outputs.sum(-1)  # noqa: E731
    recorder = neuron_mech.recorder(net, variables, x, wrong, "Dense_0", recordings=2, loss=loss)
    with pytest.raises(InputError, match=said):
        recorder.update(variables).classes(classes)


def test_own_s_signs_under_jit_stay_what_they_are():
    net, x, y = Net(), jnp.ones((6, 5)), jnp.arange(6) % 4
    variables = started(net, 0, x[:1])
    plain = neuron_mech.signs(net, variables, x, y, "Dense_0")["Dense_0"]
    jitted = jax.jit(lambda x, y: neuron_mech.signs(net, variables, x, y, "Dense_0")["Dense_0"])(x, y)
    np.testing.assert_array_equal(plain, jitted)
