"""Programs of the paper's scale, lowered for a GPU and a TPU: nothing is computed, and no accelerator is needed.

What XLA then makes of them only such a device can tell; an operation that it does not have, a shape that does not
fit or a loop that was unrolled shows here.
"""

import jax
import jax.numpy as jnp
import pytest

from neuron_mech import datasets, planning, recording, training
from neuron_mech.presets import PRESETS

TRAINING_IMAGES = {"mnist": 60_000, "cifar10": 50_000}


def blank_data(name):
    """As many images as the data set has, all black."""
    shape = (28, 28, 1) if name == "mnist" else (32, 32, 3)
    images = jnp.zeros((TRAINING_IMAGES[name], *shape), jnp.uint8)
    labels = jnp.arange(len(images)) % 10
    train, test = (datasets.Samples(images[:n], labels[:n], largest=255) for n in (len(images), 10))
    return datasets.Dataset(name, train, test, 10)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("preset", ["mnist-relu", "cifar10-relu", "cifar10-linear", "cifar10-resnet50"])
def test_a_recorded_segment_of_the_paper_s_scale_is_one_program_there(preset, platform, monkeypatch):
    monkeypatch.setattr(training, "stepwise", lambda _: False)  # as where the platform is no CPU
    data = blank_data(PRESETS[preset].data.name)
    study, state = planning.study(PRESETS[preset], data)
    steps, rest = recording.plan_epoch(study, 0).segments[0]
    assert len(steps.ids) == study.config.record.every
    recorded = data.train.rows(study.recorded)
    arguments = (state, jax.eval_shape(study.empty_counts), data.train, recorded, steps, rest)
    # Types with checked shapes hold arrays alone: in and out by leaves.
    leaves, tree = jax.tree.flatten(arguments)

    def segment(*leaves):
        return jax.tree.leaves(recording.segment(study, *jax.tree.unflatten(tree, leaves)))

    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    traced = jax.jit(segment).trace(*shapes)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.while" in program
    # Forward, and backward by input and by kernel, in the step; forward and backward in each pass of a recording: a
    # hundred unrolled steps would have a hundred times as many.
    layers = sum(leaf.ndim == 4 for leaf in jax.tree.leaves(state.params))
    assert program.count("stablehlo.convolution") <= 3 * layers + 2 * layers * 2 * len(recording.groups(study))
    assert len(traced.out_info) == len(jax.tree.leaves(arguments[:2])) + 1
