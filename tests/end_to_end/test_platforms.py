"""Programs of the paper's scale, lowered for a GPU and a TPU: nothing is computed, and no accelerator is needed.

What XLA then makes of them only such a device can tell; an operation that it does not have, a shape that does not
fit or a loop that was unrolled shows here.
"""

import re
from dataclasses import replace
from functools import cache, partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lowering import inexact
from neuron_mech import runs, training
from neuron_mech.codes import evaluation, quantization, retraining, windowing
from neuron_mech.config import PRESETS
from neuron_mech.recording.design import Moment, Samples
from neuron_mech.recording.recorder import Recorder
from neuron_mech.runs import planning
from neuron_mech.training import datasets

pytestmark = pytest.mark.long

PLATFORMS = ("cuda", "tpu")
TRAINING_IMAGES = {"mnist": 60_000, "cifar10": 50_000}


@cache
def blank_data(name):
    """As many images as the data set has, all black."""
    shape = (28, 28, 1) if name == "mnist" else (32, 32, 3)
    images = jax.device_put(np.zeros((TRAINING_IMAGES[name], *shape), np.uint8))
    labels = jax.device_put(np.arange(len(images), dtype=np.int32) % 10)
    train, test = (datasets.Samples(images[:n], labels[:n], largest=255) for n in (len(images), 10))
    return datasets.Dataset(name, train, test, 10)


@pytest.fixture(scope="module", autouse=True)
def begun_with_zeros():
    """Parameters of the right shapes: nothing is computed with them, and to draw them is dozens of programs."""
    init = training.init

    def zeros(config, model, sample):
        trees = []

        def leaves():
            found, tree = jax.tree.flatten(init(config, model, sample))
            trees.append(tree)
            return found

        shapes = jax.eval_shape(leaves)
        return jax.tree.unflatten(trees[0], [_zeros(leaf) for leaf in shapes])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "init", zeros)
        yield


def _zeros(leaf, *several):
    """Zeros of the shape and type of `leaf`; with `several`, a stack of that many."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(np.zeros((*several, *leaf.shape, 2), np.uint32))
    return jax.device_put(np.zeros((*several, *leaf.shape), leaf.dtype))


@pytest.fixture(scope="module")
def studied():
    """(study, state) of a preset, made once; and once more as on a platform that is no CPU."""
    yield cache(lambda preset, on="cpu": planning.study(PRESETS[preset], blank_data(PRESETS[preset].data.name)))
    blank_data.cache_clear()


def lowered(function, arguments):
    """({platform: the program of `function` for it}, its outputs), from arrays or their shapes.

    What is traced is the same for all platforms.
    """
    # Types with checked shapes hold arrays alone: in and out by leaves.
    leaves, tree = jax.tree.flatten(arguments)

    def flat(*leaves):
        return jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))

    traced = jax.jit(flat).trace(*(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves))
    programs = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in PLATFORMS}
    return programs, traced.out_info


def products(program):
    """How many convolutions and matrix products a program has, those of a loop once."""
    return program.count("stablehlo.convolution") + program.count("stablehlo.dot_general")


def kernels(params):
    """How many layers multiply."""
    return sum(leaf.ndim > 1 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("preset", ["mnist-relu", "cifar10-relu", "cifar10-linear", "cifar10-resnet50"])
def test_a_recorded_segment_of_the_paper_s_scale_is_one_program_there(preset, studied, monkeypatch):
    monkeypatch.setattr(training, "stepwise", lambda _: False)  # as where the platform is no CPU
    data = blank_data(PRESETS[preset].data.name)
    study, state = studied(preset, "accelerator")
    ids, rest = runs.plan_epoch(study, 0)[0]
    assert len(ids) == study.config.record.every
    of = jax.eval_shape(lambda rows: (data.train.images[rows], data.train.labels[rows]), study.recorded)
    tallies, count = jax.eval_shape(study.design.empty), jax.ShapeDtypeStruct((), jnp.int32)
    recorder = Recorder(study.design, tallies, count, {}, Samples(*of, {}), study.recorded)
    arguments = (state, recorder, data.train, ids, rest)
    programs, out = lowered(partial(runs.segment, study), arguments)
    # Forward, and backward by input and by kernel, in the step; forward and backward by input for each group of sites
    # in a recording, on a GPU each as up to six products: a hundred unrolled steps would have a hundred times as many.
    layers = sum(leaf.ndim == 4 for leaf in jax.tree.leaves(state.params))
    for platform, program in programs.items():
        assert "stablehlo.while" in program
        passes = 6 if platform == "cuda" else 1
        assert program.count("stablehlo.convolution") <= (3 + 2 * passes * len(study.design.groups())) * layers
    assert len(out) == len(jax.tree.leaves(arguments[:2])) + 1


@pytest.mark.parametrize(("preset", "mode"), [("mnist-relu", "train"), ("cifar10-relu", "eval")])
def test_every_product_of_a_recording_is_exact_there(preset, mode):
    data, config = blank_data(PRESETS[preset].data.name), PRESETS[preset]

    def made(precision):
        study, state = planning.study(
            replace(config, record=replace(config.record, mode=mode, precision=precision)), data
        )
        samples = Samples(data.train.images[study.recorded], data.train.labels[study.recorded], {})
        arguments = (jax.eval_shape(study.design.empty), samples, Moment(state.variables, state.step))
        return lowered(study.design.record, arguments)[0]

    exact, fast = made("exact"), made("fast")
    for platform in PLATFORMS:
        assert inexact(exact[platform], platform) == []
        assert len(inexact(fast[platform], platform)) == products(fast[platform]) > 0


@pytest.mark.parametrize(("preset", "name"), [("mnist-relu", "dense1"), ("cifar10-relu", "stage0layer0")])
def test_an_epoch_of_retraining_ten_windows_together_is_one_program_there(preset, name, studied):
    data = blank_data(PRESETS[preset].data.name)
    study, state = studied(preset)
    site, params = study.sites[name], state.params
    cut = retraining.cut(study.config, study.model, state.variables, data.train.rows(jnp.arange(1)), site)
    one, windows, images = retraining.initial(cut), 10, len(data.train)
    state = jax.tree.map(lambda leaf: _zeros(leaf, windows), one)
    bits = jax.eval_shape(lambda: windowing.pack(jnp.zeros((images, *site.shape), bool)))
    batches = jnp.arange(images - images % study.config.train.batch_size).reshape(-1, study.config.train.batch_size)

    def epoch(state, bits, labels, ids):
        def through_one(state, bits):
            return retraining.epoch(cut, state, retraining.Binarized(bits, labels), ids, None)

        return jax.vmap(through_one)(state, bits)

    seen = jax.ShapeDtypeStruct((windows, *bits.shape), bits.dtype)
    programs, out = lowered(epoch, (state, seen, data.train.labels, batches))
    for program in programs.values():
        assert 0 < products(program) <= 3 * kernels(params), "steps or windows are unrolled"
    assert [leaf.shape for leaf in out] == [leaf.shape for leaf in jax.tree.leaves(state)] + [(windows,)]


@pytest.mark.parametrize("form", get_args(retraining.Form))
def test_convolutions_of_ten_windows_are_batched_products_there_and_not_in_groups(form, studied, monkeypatch):
    monkeypatch.setattr(training, "stepwise", lambda _: False)  # as where the platform is no CPU
    data = blank_data("cifar10")
    study, state = studied("cifar10-relu", "accelerator")
    site, one = study.sites["stage2layer2"], data.train.rows(jnp.arange(1))
    cut = retraining.cut(study.config, study.model, state.variables, one, site)
    retrain = retraining.Retraining(replace(cut, form=form))
    start = retrain.start(10)
    bits = jax.eval_shape(lambda: windowing.pack(jnp.zeros((len(data.train), *site.shape), bool)))
    ids, _ = retrain.order(len(data.train), 0)
    bits = jax.ShapeDtypeStruct((10, *bits.shape), bits.dtype)

    def epoch(state, bits, labels):
        return retrain.epoch(state, retraining.Binarized(bits, labels), ids, None)

    programs, _ = lowered(epoch, (start, bits, data.train.labels))
    for program in programs.values():
        groups = {int(count) for count in re.findall(r"(?:feature|batch)_group_count = (\d+)", program)}
        batched = len(re.findall(r"dot_general .*batching_dims = \[\d", program))
        if form == "convolutions":
            assert 10 in groups
            continue
        # Three convolutions, and the last layer; each forward, and backward by input and by kernel.
        assert "stablehlo.convolution" not in program
        assert groups <= {1}
        assert batched >= 3 * 3 * (9 if form == "products" else 1) + 3
        assert products(program) <= (3 * 3 + 9) * (9 if form == "products" else 1) + 3, "steps or windows are unrolled"


@pytest.mark.parametrize(("preset", "name"), [("mnist-relu", "dense1"), ("cifar10-relu", "stage2layer2")])
@pytest.mark.parametrize("code", [quantization.quantized, quantization.noisy, quantization.permuted])
def test_eleven_codes_of_a_site_are_one_program_there(code, preset, name, studied):
    data = blank_data(PRESETS[preset].data.name)
    study, state = studied(preset)
    site = study.sites[name]
    codes = quantization.at_ranks(jnp.zeros((100, site.shape[-1])), tuple(range(0, 101, 10)))
    if code is quantization.noisy:
        codes = codes.threshold
    values = jax.ShapeDtypeStruct((1000, *site.shape), jnp.float32)

    def outputs(codes, variables, inputs, values):
        trial = evaluation.Trial(name, code, codes, jax.random.key(0))
        return evaluation.logits_of_codes(trial, study.model, variables, inputs, values)

    inputs = jax.eval_shape(lambda: data.train.rows(jnp.arange(1000)).inputs)
    programs, (out,) = lowered(outputs, (codes, state.variables, inputs, values))
    for program in programs.values():
        assert 0 < products(program) <= kernels(state.params), "codes are unrolled"
    assert out.shape == (11, 1000, 10)
