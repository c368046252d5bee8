"""What the untrained network predicts, against the chain rule by hand."""

from dataclasses import replace

import numpy as np
import pytest

import oracles
from neuron_mech.config import Config, Model, Record, Train
from neuron_mech.runs import planning, predictions


@pytest.fixture(scope="module")
def start(digits):
    """A small run before its first step."""
    config = Config(
        "digits", model=Model(width=1 / 32), train=Train(batch_size=32), record=Record(samples=60, chunk=32)
    )
    study, state = planning.study(config, digits)
    return study, state, digits.train.rows(study.recorded)


@pytest.mark.parametrize("mode", ["eval", "train", "online"])
def test_first_categories_are_the_signs_of_the_first_derivatives(start, digits, mode):
    study, state, recorded = start
    study, _ = planning.study(replace(study.config, record=replace(study.config.record, mode=mode)), digits)
    found = predictions.first_categories(study, state)
    by_hand = [
        oracles.MLP(state.params, "relu").margin_gradients(np.asarray(x), int(y))["activation"]
        for x, y in zip(recorded.inputs, recorded.labels, strict=True)
    ]
    for site in ("dense1", "dense2"):
        np.testing.assert_array_equal(found[site], np.sign([gradients[site] for gradients in by_hand]))


def test_weights_to_the_logits_are_the_output_kernel_and_the_open_paths_to_it(start):
    study, state, recorded = start
    found = predictions.weights_to_logits(study.model, state.variables, study.sites, recorded, 10, chunk=25)
    network = oracles.MLP(state.params, "relu")
    (_, _), (w2, _), (w3, _) = network.layers
    np.testing.assert_allclose(found["dense2"], w3.T, atol=1e-6)
    open_paths = np.mean([network.forward(np.asarray(x))[0][1] > 0 for x in recorded.inputs], axis=0)
    np.testing.assert_allclose(found["dense1"], (w2 @ (open_paths[:, None] * w3)).T, atol=1e-5)
