"""ResNet50: against Keras's own, and one assembled here from Keras's layers; images and studies of it."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import gradient_signs
from keras_models import FEW, NARROW, assembled, disturbed, without_drawing
from neuron_mech import runs, store, taps
from neuron_mech.codes import retraining, windowing
from neuron_mech.config import PRESETS, Watch
from neuron_mech.errors import InputError
from neuron_mech.runs import loop
from neuron_mech.taps.objectives import margin
from neuron_mech.training import datasets, models
from neuron_mech.training.datasets import Samples
from neuron_mech.training.models import ResNet50, keras_weights, resnet
from neuron_mech.training.models.resnet import BLOCKS, caffe

SITES = ("conv1", *(f"{stage}{letter}" for stage, letters in BLOCKS.items() for letter in letters))
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras's variables
]


def agree(ours, theirs):
    """Equal to 1e-4 of the largest of a site."""
    assert len(ours) == len(theirs) == 18
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert np.abs(np.asarray(one) - other).max() < 1e-4 * np.abs(other).max()


def read(model, variables, images):
    """Pre-activations of all sites, and logits."""
    logits, values = jax.jit(lambda v, x: taps.read(model, v, x, SITES))(variables, images)
    return [*(values[site] for site in SITES), logits]


# --- The network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "pixels", "sides"),
    [
        ("keras3", 224, (112, 56, 28, 14, 7)),
        ("keras2017", 224, (112, 55, 28, 14, 7)),
        ("small", 32, (32, 32, 16, 8, 4)),
    ],
)
def test_its_sites_are_the_paper_s_and_its_parameters_keras_s(variant, pixels, sides):
    model = models.build(replace(PRESETS["imagenet-resnet50"].model, variant=variant, weights=None), 1000)
    x = jnp.zeros((1, pixels, pixels, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    chosen = taps.select(taps.sites(model, {k: variables[k] for k in ("params", "batch_stats")}, x), ("all",))
    assert tuple(chosen) == SITES
    for name, site in chosen.items():
        stage = 1 if name == "conv1" else int(name[0])
        assert site.shape == (sides[stage - 1], sides[stage - 1], 64 if stage == 1 else 64 * 2**stage)
    # Keras's model summary: 25,583,592 parameters to train, 53,120 statistics. A small kernel has 9 weights, not 49.
    saved = 40 * 3 * 64 if variant == "small" else 0
    counts = [sum(leaf.size for leaf in jax.tree.leaves(variables[part])) for part in ("params", "batch_stats")]
    assert counts == [25_583_592 - saved, 53_120]


def photographs(count):
    """The first ImageNet images of at least 224 pixels, where there are any prepared; otherwise noise."""
    for where in (None, datasets.directory(None) / "imagenet_sample"):
        try:
            source = datasets.builder("imagenet2012", where).as_data_source(split="validation")
        except InputError:
            continue
        large = (i for i in (source[k]["image"] for k in range(100)) if min(i.shape[:2]) >= 224)
        return np.stack([next(large)[:224, :224] for _ in range(count)])
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)


def test_it_is_keras_s_own_network_on_photographs(keras, lenient, monkeypatch):
    without_drawing(monkeypatch, keras)
    theirs = disturbed(keras, keras.applications.ResNet50(weights=None, classifier_activation=None))
    sums = [f"conv{stage}_block{n + 1}_add" for stage, letters in BLOCKS.items() for n in range(len(letters))]
    outputs = [theirs.get_layer(name).output for name in ("conv1_bn", *sums)]
    images = photographs(1)
    prepared = keras.applications.resnet50.preprocess_input(images.astype(np.float32))
    expected = keras.Model(theirs.input, [*outputs, theirs.output]).predict_on_batch(prepared)
    model = models.build(PRESETS["imagenet-resnet50"].model, 1000)
    variables = keras_weights.variables(keras_weights.of_model(theirs), model)
    inputs = Samples(jnp.asarray(images), jnp.zeros(1, jnp.int32), largest=255, pixels=224).inputs
    agree(read(model, variables, inputs), expected)


@pytest.mark.parametrize(("variant", "pixels"), [("keras2017", 64), ("small", 24)])
def test_its_other_variants_are_what_keras_s_layers_make(keras, lenient, variant, pixels):
    theirs = disturbed(keras, assembled(keras, variant, pixels))
    model = ResNet50(variant=variant, neurons=NARROW, classes=10)
    variables = keras_weights.variables(keras_weights.of_model(theirs), model)
    images = jax.random.uniform(jax.random.key(0), (2, pixels, pixels, 3))
    inputs = images if variant == "small" else keras.applications.resnet50.preprocess_input(255 * np.array(images))
    agree(read(model, variables, images), theirs.predict_on_batch(np.asarray(inputs)))


def test_images_are_prepared_as_keras_does(keras):
    images = np.random.default_rng(0).uniform(size=(2, 3, 5, 3)).astype(np.float32)
    expected = keras.applications.resnet50.preprocess_input(255 * images)  # which changes what it is given
    np.testing.assert_allclose(caffe(jnp.asarray(images)), expected, rtol=1e-6, atol=1e-4)


# --- Images in another size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [None, 8, 5, 24])
def test_images_are_seen_in_another_size_as_pillow_interpolates_them(pixels):
    images = np.random.default_rng(0).integers(0, 17, (3, 8, 8, 2), dtype=np.uint8)
    samples = Samples(jnp.asarray(images), jnp.zeros(3, jnp.int32), largest=16, pixels=pixels)
    side = pixels or 8
    expected = np.empty((3, side, side, 2))
    for i, channel in np.ndindex(3, 2):
        stored = Image.fromarray(images[i, ..., channel].astype(np.float32) / 16)
        expected[i, ..., channel] = stored.resize((side, side), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(samples.inputs, expected, atol=1e-6)
    np.testing.assert_allclose(samples.rows(jnp.arange(1)).inputs, expected[:1], atol=1e-6)


# --- A study of it ----------------------------------------------------------------------------------------------------


PRESET = PRESETS["cifar10-resnet50"]
SMALL = replace(
    PRESET,
    data=replace(PRESET.data, name="digits", pixels=10),
    model=replace(PRESET.model, width=1 / 32),
    train=replace(PRESET.train, batch_size=16, epochs=2),
    record=replace(
        PRESET.record, sites=("conv1", "3a", "5b"), every=3, samples=20, site_samples=("5b:20", "*:10"), chunk=10
    ),
    watch=Watch(recordings=0),
)
"""Neurons 2, 4, 8, 16 and four times as many; 64 images of 8x8 pixels, seen as 10x10."""


@pytest.fixture(scope="module")
def data():
    whole = datasets.load(SMALL.data)
    return replace(whole, train=whole.train.rows(jnp.arange(64)), test=whole.test.rows(jnp.arange(64)))


@pytest.fixture(scope="module")
def shallow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "BLOCKS", FEW)
        yield


@pytest.fixture(scope="module")
def finished(data, shallow, tmp_path_factory):
    directory = tmp_path_factory.mktemp("resnet")
    with pytest.MonkeyPatch.context() as patch, store.opened(directory, SMALL):
        patch.setattr(loop.datasets, "load", lambda *_: data)
        return runs.run(SMALL, directory)


def test_it_is_trained_and_recorded_as_any_other_network(finished):
    run = finished
    assert run.study.design.stepwise
    assert list(run.study.design.rows.values()) == [10, 10, 20]
    tally = run.tallies["margin"]
    shapes = {"conv1": (10, 10, 10, 2), "3a": (10, 5, 5, 16), "5b": (20, 2, 2, 64)}
    assert {site: tally[site].positive.shape for site in tally} == shapes
    # Two epochs of four batches, two recordings each. What follows 3a reads every other row and column; 5b is averaged.
    assert run.study.recordings == 4
    nonzero = {site: np.asarray(of.positive + of.negative) for site, of in tally.items()}
    assert (nonzero["5b"] == 4).all()
    assert not nonzero["3a"][:, 1::2].any()
    assert not nonzero["3a"][:, :, 1::2].any()
    assert nonzero["3a"][:, ::2, ::2].mean() > 3.9
    assert np.isfinite(run.state.history["loss"]).all()
    signs = gradient_signs.dataset(run)
    assert list(signs.label.values) == ["conv1-relu", "3a-relu", "5b-relu"]
    assert np.isfinite(signs.constancy).all()


def test_its_derivatives_are_finite_differences_in_double_precision(finished, data):
    run = finished
    model, sites = run.study.model, run.study.sites
    batch = data.train.rows(jnp.arange(2))
    found = jax.jit(lambda v, x, y: taps.per_sample_gradients(model, v, x, y, sites, {"margin": margin})["margin"])(
        run.state.train.variables, batch.inputs, batch.labels
    )
    draw = np.random.default_rng(0)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), run.state.train.variables)
        inputs = jnp.asarray(np.asarray(batch.inputs), jnp.float64)

        @jax.jit
        def margins(variables, inputs, perturbations):
            return margin(taps.perturbed(model, perturbations)(variables, inputs), batch.labels)

        for site, gradient in found.items():
            gradient = np.asarray(gradient, np.float64)
            direction = draw.normal(size=gradient.shape)
            zero = {name: np.zeros((2, *of.shape)) for name, of in sites.items()}
            up, down = (np.asarray(margins(double, inputs, zero | {site: step * direction})) for step in (1e-6, -1e-6))
            expected = (gradient * direction).reshape(2, -1).sum(-1)
            np.testing.assert_allclose((up - down) / 2e-6, expected, rtol=1e-3, atol=1e-4 * np.abs(gradient).max())


def test_a_cut_after_a_block_drops_all_before_it_and_one_inside_is_refused(finished, data):
    run = finished
    study, variables = run.study, run.state.train.variables
    one = data.train.rows(jnp.arange(1))
    inside = taps.sites(study.model, variables, one.inputs)["4a_branch1_conv"]
    with pytest.raises(InputError, match=r"'4a_branch1_conv' cannot be cut at: a path .* goes round it"):
        retraining.cut(SMALL, study.model, variables, one, inside)
    cut = retraining.cut(SMALL, study.model, variables, one, study.sites["3a"])
    assert cut.convolutional
    start = retraining.initial(cut)
    blocks = [f"{stage}{letter}" for stage in (4, 5) for letter in FEW[stage]]
    branches = ("branch1", "branch2a", "branch2b", "branch2c")
    kept = {f"{b}_{branch}" for b in blocks for branch in branches if branch != "branch1" or b[1] == "a"}
    assert set(start.params) == {"logits"} | {f"{name}_{kind}" for name in kept for kind in ("conv", "norm")}
    assert set(start.statistics["batch_stats"]) == {f"{name}_norm" for name in kept}
    # The same loss from the whole network, its site's pre-activations replaced.
    eight = data.train.rows(jnp.arange(8))
    bits = windowing.pack(jax.random.bernoulli(jax.random.key(0), shape=(8, *study.sites["3a"].shape)))
    seen = retraining.Binarized(bits, eight.labels)
    stepped, loss = jax.jit(
        lambda start, bits, labels: retraining.step(cut, start, retraining.Binarized(bits, labels), jnp.arange(8))
    )(start, seen.bits, seen.labels)
    assert jax.tree.structure(stepped) == jax.tree.structure(start)
    whole = {k: {**variables[k], **part} for k, part in (("params", start.params), *start.statistics.items())}
    values = windowing.unpack(bits, study.sites["3a"].shape)
    edited = taps.edited(study.model, pre={"3a": lambda _: values})
    logits, _ = jax.jit(lambda v, x: edited(v, x, train=True, mutable=["batch_stats"]))(whole, eight.inputs)
    assert float(loss) == pytest.approx(float(nn.softplus(margin(logits, eight.labels)).mean()), rel=1e-4)


def test_after_the_last_block_the_last_layer_alone_is_retrained(finished, data):
    study, variables = finished.study, finished.state.train.variables
    cut = retraining.cut(SMALL, study.model, variables, data.train.rows(jnp.arange(1)), study.sites["5b"])
    start, labels = retraining.initial(cut), data.train.labels[:8]
    assert set(start.params) == {"logits"}
    assert not start.statistics
    values = jax.random.bernoulli(jax.random.key(0), shape=(8, *study.sites["5b"].shape))
    bits = windowing.pack(values)
    stepped, loss = jax.jit(
        lambda start, bits: retraining.step(cut, start, retraining.Binarized(bits, labels), jnp.arange(8))
    )(start, bits)
    assert jax.tree.structure(stepped) == jax.tree.structure(start)
    logits = values.astype(jnp.float32).mean((1, 2)) @ start.params["logits"]["kernel"]
    assert float(loss) == pytest.approx(float(nn.softplus(margin(logits, labels)).mean()), rel=1e-5)
