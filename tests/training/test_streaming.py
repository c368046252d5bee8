"""Streams: what is read is what was stored, in order, whatever reads it; and what cannot be read is said."""

import io
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from PIL import Image

from at_hand import at_hand
from experiments import quantization as quantization_experiment
from experiments.command_line import Session
from keras_models import FEW
from neuron_mech import store
from neuron_mech.config import PRESETS, Data, Model
from neuron_mech.errors import InputError, RunError
from neuron_mech.runs import planning, subjects
from neuron_mech.training import datasets
from neuron_mech.training.datasets import Dataset, Samples, Stream
from neuron_mech.training.models import resnet
from neuron_mech.training.streaming import BLOCK, Reader, prepared

SAMPLE = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser() / "imagenet_sample"
SIZE = 2 * BLOCK + 13


def encoded(image, kind="PNG", mode=None):
    file = io.BytesIO()
    Image.fromarray(image, mode).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def pair():
    """The same random images as a stream and in memory."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (SIZE, 8, 8, 3), dtype=np.uint8)
    labels = draw.integers(0, 10, SIZE)
    records = [
        {"image": encoded(i), "label": int(n), "file_name": f"{k}.png"}
        for k, (i, n) in enumerate(zip(images, labels, strict=True))
    ]
    stream = Stream(Reader("made up", records, np.arange(SIZE), (8, 8, 3), None))
    return stream, Samples(jnp.asarray(images), jnp.asarray(labels, jnp.int32), 255)


def same(stream, samples, size):
    found = list(stream.chunks(size))
    expected = list(samples.chunks(size))
    assert [len(chunk) for chunk in found] == [len(chunk) for chunk in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize("size", [1, 10, BLOCK, SIZE, 1000])
def test_a_stream_is_what_is_stored_in_order(pair, size):
    same(*pair, size)
    ids = np.array([5, 70, 2, 2])
    same(*(part.rows(ids) for part in pair), size)


def test_workers_change_nothing(pair, capsys):
    stream, samples = pair
    same(replace(stream, workers=2), samples, 50)
    said = capsys.readouterr().out
    assert f"made up: {SIZE} images; input " in said
    assert "(2 workers), network " in said


def test_a_worker_that_is_killed_ends_the_run_in_one_line(pair):
    stream, _ = pair
    many = replace(stream.rows(np.arange(40 * BLOCK) % SIZE), workers=2)
    before = set(psutil.Process().children(recursive=True))
    chunks = many.chunks(BLOCK)
    next(chunks)
    workers = [
        p
        for p in psutil.Process().children(recursive=True)
        if p not in before and "spawn_main" in " ".join(p.cmdline())
    ]
    workers[0].send_signal(signal.SIGKILL)
    with pytest.raises(
        RunError, match=r"^a process that reads images of made up ended \(SIGKILL\): .*--workers \(now 2\)"
    ):
        list(chunks)
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


# --- Images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (256, 256), (12, 9), (1, 40)])
def test_the_centre_of_the_resized_image_is_cut_out(width, height):
    """Against the same by hand: the short side becomes 8/7 of the crop."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = prepared(encoded(image), "RGB", 56)
    assert found.shape == (56, 56, 3)
    whole = (round(width * 64 / min(width, height)), round(height * 64 / min(width, height)))
    resized = np.asarray(Image.fromarray(image).resize(whole, Image.Resampling.BILINEAR))
    top, left = (whole[1] - 56) // 2, (whole[0] - 56) // 2
    np.testing.assert_array_equal(found, resized[top : top + 56, left : left + 56])


def test_every_kind_of_image_comes_out_red_green_blue():
    draw = np.random.default_rng(0)
    grey, cmyk = draw.integers(0, 256, (20, 30), np.uint8), draw.integers(0, 256, (20, 30, 4), np.uint8)
    for image in (encoded(grey, "JPEG"), encoded(cmyk, "JPEG", "CMYK"), encoded(cmyk, "PNG", "RGBA")):
        assert prepared(image, "RGB", 16).shape == (16, 16, 3)
    found = prepared(encoded(grey), "RGB", None)
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))
    assert prepared(encoded(grey), "L", None).shape == (20, 30, 1)


@pytest.fixture
def damaged(pair):
    """The stream with one JPEG cut off, one that is none, and one of another size."""
    stream, samples = pair
    records = list(stream.reader.source)
    whole = encoded(np.asarray(samples.images[3]), "JPEG")
    records[3] = records[3] | {"image": whole[: len(whole) // 2]}
    records[40] = records[40] | {"image": b"not an image"}
    records[41] = records[41] | {"image": encoded(np.zeros((9, 8, 3), np.uint8))}
    return replace(stream, reader=replace(stream.reader, source=records))


def test_a_corrupt_image_stops_the_run_and_is_named(damaged):
    with pytest.raises(RunError, match=r"^3.png \(record 3 of made up\): .*(?i:truncated).*--data.corrupt skip\)$"):
        list(damaged.chunks(10))
    with pytest.raises(RunError, match=r"41.png \(record 41 of made up\): it has shape \[9, 8, 3\], not \[8, 8, 3\]"):
        list(damaged.rows(np.array([41])).chunks(10))


def test_corrupt_images_are_left_out_and_counted(damaged, pair, capsys):
    stream = replace(damaged, corrupt="skip")
    same(stream, pair[1].rows(np.delete(np.arange(SIZE), [3, 40, 41])), 10)
    assert "made up: 3 corrupt images left out: 3.png (record 3 of made up)" in capsys.readouterr().out
    with pytest.raises(RunError, match="none of 2 images can be read"):
        list(stream.rows(np.array([3, 40])).chunks(10))


# --- Data sets --------------------------------------------------------------------------------------------------------


def test_a_prepared_data_set_is_the_same_as_a_stream():
    in_memory = at_hand(Data("cifar10", train_images=1, test_images=300))
    stream = datasets.load(Data("cifar10", stream=True, test_images=300), workers=0)
    same(stream.test, in_memory.test, 128)
    assert (stream.classes, stream.top, len(stream.train)) == (10, 1, 50_000)


def test_what_cannot_be_had_is_said(tmp_path):
    for data, message in (
        (Data("imagenet2012", pixels=224), r"has no imagenet2012 .* downloaded by hand .*image-net.org.*prepare_data"),
        (Data("no_such_set"), "data.name is 'no_such_set', which TensorFlow Datasets does not know"),
        (Data(stream=True), "data.stream is True, but digits come with scikit-learn"),
        (Data(train_images=2000), "data.train_images is 2000, but digits has 1,437"),
    ):
        with pytest.raises(InputError, match=message) as error:
            datasets.load(data, tmp_path)
        assert "\n" not in str(error.value)


def test_fewer_images_are_the_first(digits):
    found = datasets.load(Data(train_images=100, test_images=7))
    np.testing.assert_array_equal(found.train.images, digits.train.images[:100])
    np.testing.assert_array_equal(found.test.labels, digits.test.labels[:7])


def test_images_that_are_left_out_are_not_read(monkeypatch):
    """The whole of CIFAR-10 takes ten seconds and more."""
    read = []

    class Source:
        def __len__(self):
            return 2500

        def __getitems__(self, ids):
            read.extend(ids)
            return [{"image": np.full((4, 4, 1), i % 256, np.uint8), "label": i % 2} for i in ids]

    class Found:
        name = "fake"
        info = SimpleNamespace(
            features={
                "image": SimpleNamespace(shape=(4, 4, 1), np_dtype=np.uint8),
                "label": SimpleNamespace(num_classes=2),
            },
            splits=("train", "test"),
        )

        def as_data_source(self, split, decoders):
            return Source()

    monkeypatch.setattr(datasets, "builder", lambda *_: Found())
    found = datasets.load(Data("fake", train_images=1200, test_images=3))
    assert (len(found.train), len(found.test), len(read)) == (1200, 3, 1203)
    assert int(found.train.images[1100, 0, 0, 0]) == 1100 % 256
    assert len(datasets.load(Data("fake", test_images=3)).train) == 2500
    with pytest.raises(InputError, match=r"data.train_images is 3000, but fake has 2,500"):
        datasets.load(Data("fake", train_images=3000))


# --- Experiments ------------------------------------------------------------------------------------------------------


def test_a_stream_gives_the_numbers_of_the_same_images_in_memory(pair, tmp_path):
    config = replace(PRESETS["digits"], model=Model(width=1 / 16, weights="random"))
    measured = []
    for samples in pair:
        dataset = Dataset("made up", samples, samples.rows(np.arange(50)), 10)
        study, state = planning.study(config, replace(dataset, train=pair[1]))
        subject = subjects.Subject(config, study.model, state.variables, study.sites, dataset, tmp_path)
        measured.append(quantization_experiment.measure(subject, (50.0, 80.0)))
    for name, values in measured[0].data_vars.items():
        np.testing.assert_array_equal(values, measured[1][name], err_msg=str(name))


def test_imagenet_from_disk_to_figure_with_random_weights(tmp_path, monkeypatch, capsys):
    """The real preset, a thin and shallow network, real images of many sizes."""
    if not SAMPLE.is_dir():
        pytest.skip(f"there is no sample of ImageNet in {SAMPLE}")
    monkeypatch.setattr(resnet, "BLOCKS", FEW)
    preset = PRESETS["imagenet-resnet50"]
    config = replace(
        preset,
        data=replace(preset.data, pixels=32, train_images=40, test_images=60),
        model=replace(preset.model, weights="random", width=1 / 16),
        record=replace(preset.record, sites=("5b",)),  # the site with least to compile above it
    )
    options = quantization_experiment.QuantizationOptions(
        data_dir=SAMPLE, workers=0, ranks=(50.0,), data=config.data, model=config.model
    )
    with store.opened(tmp_path, config):
        quantization_experiment.experiment(Session(config, options, tmp_path))
    found = store.read_dataset(tmp_path / "quantization.nc")
    assert found.attrs["top"] == 5
    assert list(found.site.values) == ["5b"]
    assert found.accuracy.attrs["description"].startswith("top-5 test accuracy")
    assert np.isfinite(found.accuracy).all()
    assert "top-5 test accuracy" in (tmp_path / "figures" / "figure3.svg").read_text()
    said = capsys.readouterr().out
    assert "imagenet2012 train: 40 images; input " in said
    assert "imagenet2012 validation: 60 images; input " in said
    assert said.count("images/s") == 4
