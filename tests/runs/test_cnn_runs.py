"""Whole runs of the convolutional network: stopped and gone on with, and measured by every experiment."""

import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import small_cnn
from experiments import binarization as binarization_experiment
from experiments import gradient_signs, learning_dynamics, quantization
from neuron_mech import runs, store
from neuron_mech.errors import Interrupted
from neuron_mech.runs import loop, subjects
from small_cnn import SMALL

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def data(digits):
    return small_cnn.few(digits)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("cnn")
    return run(SMALL, directory, data), directory


def run(config, directory, data, **options):
    with pytest.MonkeyPatch.context() as patch, store.opened(directory, config):
        patch.setattr(loop.datasets, "load", lambda *_: data)
        return runs.run(config, directory, **options)


def test_stopped_and_resumed_it_ends_in_the_same_bits(finished, data, tmp_path, monkeypatch):
    whole, directory = finished
    original, calls = loop.advancing, []

    def stopping(study):
        advance = original(study)

        def once(*arguments):
            calls.append(1)
            if len(calls) == 4:  # in the second epoch, after the step size dropped
                os.kill(os.getpid(), signal.SIGTERM)
            return advance(*arguments)

        return once

    monkeypatch.setattr(loop, "advancing", stopping)
    with pytest.raises(Interrupted):
        run(SMALL, tmp_path, data)
    again = run(SMALL, tmp_path, data)
    assert len(calls) == 6
    for one, other in zip(jax.tree.leaves(whole.state), jax.tree.leaves(again.state), strict=True):
        one, other = (
            jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in (one, other)
        )
        np.testing.assert_array_equal(one, other)
    for file in (directory / "trajectories").iterdir():
        assert file.read_bytes() == (tmp_path / "trajectories" / file.name).read_bytes()


def test_every_experiment_runs_on_it(finished, tmp_path, capsys):
    whole, directory = finished
    gradient_signs.report(whole)
    signs = store.read_dataset(directory / "gradient_signs.nc")
    assert list(signs.recorded_samples.values) == [10, 25, 40]
    assert list(signs.label.values) == ["stage0layer0-relu", "stage2layer0-relu", "stage3layer0-relu"]
    # Only one of four positions before the pooling has a derivative.
    assert float(signs.zero_share.sel(site="stage2layer0").item()) == pytest.approx(0.75, abs=0.01)
    one = replace(subjects.of_run(whole), directory=tmp_path, sites={"stage2layer0": whole.study.sites["stage2layer0"]})
    codes = quantization.measure(one, (50.0,))
    assert codes.neuron.values.tolist() == [("stage2layer0", index) for index in range(8)]
    assert np.isfinite(codes.accuracy).all()
    capsys.readouterr()
    for form, said in ((None, "one after another on a cpu, convolutions as they are"), ("patches", "as patches")):
        options = binarization_experiment.BinarizationOptions(centers=(45.0,), form=form)
        found = binarization_experiment.empty(one.config, one, options)
        binarization_experiment.sweep(one, found, tmp_path / "binarization.nc", options)
        assert np.isfinite(found.accuracy_by_seed).all()
        out = capsys.readouterr().out
        assert out.count("stage2layer0-relu: windows one after another") == 1
        assert said in out


def test_the_separation_of_position_means_is_scikit_learn_s_of_single_images(finished):
    whole, _ = finished
    study, variables = whole.study, whole.state.train.variables
    found = learning_dynamics.dataset(whole)

    @jax.jit
    def one_image(image):
        _, taken = study.model.apply(variables, image[None], train=False, mutable=["intermediates"])
        return taken["intermediates"]

    for site, samples in {"stage0layer0": 10, "stage2layer0": 20, "stage3layer0": 20}.items():
        images = whole.dataset.train.rows(study.recorded[:samples]).inputs
        values = []
        for image in images:
            (value,) = one_image(image)[site]["pre_activation"]
            values.append(np.asarray(value, np.float64).mean((0, 1, 2)))
        tally = whole.tallies["margin"][site]
        lead = (np.asarray(tally.positive, int) - np.asarray(tally.negative, int))[:samples].sum((1, 2))
        auc = found.position_mean_auc.sel(neuron_site=site).values
        assert np.isfinite(auc).any()
        for neuron, own in enumerate(lead.T):
            values_of = np.stack(values)[own != 0, neuron]
            expected = roc_auc_score(own[own != 0] < 0, values_of) if len(set(np.sign(own[own != 0]))) == 2 else np.nan
            np.testing.assert_allclose(auc[neuron], expected, atol=0.02)  # one pair of 100 in another order
