"""The experiments on codes, whole: over seeds, stopped and gone on."""

import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import small_mlp
from experiments import binarization as binarization_experiment
from experiments import quantization as quantization_experiment
from experiments import readouts
from experiments.command_line import Session
from neuron_mech import store, taps
from neuron_mech.codes import retraining, sources
from neuron_mech.errors import InputError
from neuron_mech.runs import subjects
from neuron_mech.taps import Site
from small_mlp import CONFIG
from small_runs import finished


@pytest.fixture(scope="module")
def studied(digits):
    return small_mlp.studied(digits)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a trained network and nothing else."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    finished(CONFIG, directory)
    return directory


def test_quantization_end_to_end_over_two_seeds(trained, tmp_path, capsys):
    options = quantization_experiment.QuantizationOptions(seeds=2, ranks=(0.0, 50.0, 100.0))
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    with store.opened(tmp_path, CONFIG):
        quantization_experiment.experiment(Session(CONFIG, options, tmp_path))
    found = store.read_dataset(tmp_path / "quantization.nc")
    assert found.accuracy.dims == ("site", "percentile_rank")
    assert list(found.seed.values) == [0, 1]
    assert {"original_accuracy", "zero_rank_mean", "zero_rank_std"} <= set(found.data_vars)
    np.testing.assert_allclose(found.accuracy, found.accuracy_by_seed.mean("seed"))
    assert all(v.attrs["units"] for v in found.data_vars.values())
    assert (found.permuted_accuracy < 0.5).all()
    assert {f.stem for f in (tmp_path / "figures").iterdir()} == {"figure3", "information"}
    assert "dense1-relu" in (tmp_path / "table1.txt").read_text()
    assert (tmp_path / "seed1" / "checkpoints").is_dir()
    assert "80 ± 8.9" not in capsys.readouterr().out  # the paper's number is MNIST's
    assert "80 ± 8.9" in quantization_experiment.table_1(found.assign_attrs(preset="mnist-relu"))
    # The extreme thresholds leave one value for (nearly) all: chance.
    assert (found.accuracy.sel(percentile_rank=[0, 100]) < 0.35).all()
    assert (found.accuracy.sel(percentile_rank=50) > 0.5).all()


def test_a_stopped_sweep_goes_on_without_repeating_a_cell(trained, tmp_path, monkeypatch):
    for name in ("whole", "stopped", "together", "only"):
        shutil.copytree(trained, tmp_path / name)
    options = binarization_experiment.BinarizationOptions(centers=(5.0, 45.0), together=1)

    def sweep(directory):
        with store.opened(directory, CONFIG):
            binarization_experiment.experiment(Session(CONFIG, options, directory))
        return store.read_dataset(directory / "binarization.nc")

    whole = sweep(tmp_path / "whole")
    assert whole.accuracy.dims == ("site", "window_center")
    assert np.isfinite(whole.accuracy_by_seed).all()
    assert (tmp_path / "whole" / "figures" / "figure4.png").exists()

    calls = []
    original = retraining.Retraining.__call__

    def stopping(self, train, test, tick=lambda: None):
        if len(calls) == 5 and "stopped" not in calls and train.bits.shape[0] == 1:
            calls.append("stopped")
            raise KeyboardInterrupt
        calls.append(self.cut.site.name)
        return original(self, train, test, tick)

    monkeypatch.setattr(retraining.Retraining, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "stopped")
    part = store.read_dataset(tmp_path / "stopped" / "binarization.nc")
    assert int(np.isfinite(part.accuracy_by_seed).sum()) == 5
    sweep(tmp_path / "stopped")
    assert len(calls) == 13  # 12 cells, and the attempt that was stopped
    assert (tmp_path / "stopped" / "binarization.nc").read_bytes() == (
        tmp_path / "whole" / "binarization.nc"
    ).read_bytes()
    # All windows of a site in one program: the same sweep, three cells at each of two sites.
    calls.clear()
    together = binarization_experiment.BinarizationOptions(centers=(5.0, 45.0), together=2)
    with store.opened(tmp_path / "together", CONFIG):
        binarization_experiment.experiment(Session(CONFIG, together, tmp_path / "together"))
    found = store.read_dataset(tmp_path / "together" / "binarization.nc")
    np.testing.assert_allclose(found.accuracy_by_seed, whole.accuracy_by_seed, atol=2 / 360)
    # Of one source alone: the same cells, and nothing of the others.
    only = binarization_experiment.BinarizationOptions(centers=(5.0, 45.0), sources=("trained",), together=1)
    with store.opened(tmp_path / "only", CONFIG):
        binarization_experiment.experiment(Session(CONFIG, only, tmp_path / "only"))
    found = store.read_dataset(tmp_path / "only" / "binarization.nc")
    np.testing.assert_array_equal(found.accuracy, whole.accuracy)
    assert np.isnan(found.accuracy_by_seed.sel(source=["untrained", "projection"])).all()
    # Other centers, sites and sources are added, and nothing that is there goes.
    more = replace(only, centers=(45.0, 95.0), sources=("untrained",), sites=("dense2",))
    with store.opened(tmp_path / "only", CONFIG):
        calls.clear()
        binarization_experiment.experiment(Session(CONFIG, more, tmp_path / "only"))
    assert calls == ["dense2", "dense2"]
    found = store.read_dataset(tmp_path / "only" / "binarization.nc")
    assert found.window_center.values.tolist() == [5, 45, 95]
    np.testing.assert_array_equal(found.accuracy.sel(window_center=[5, 45]), whole.accuracy)
    added = found.untrained_accuracy
    assert float(added.sel(site="dense2", window_center=45)) == whole.untrained_accuracy.sel(
        site="dense2", window_center=45
    )
    assert int(np.isfinite(found.accuracy_by_seed).sum()) == 4 + 2
    # A layer that was recorded beside its neurons is a site of the sweep too.
    both = {name: Site(name, kind, (4,), np.float32) for name, kind in (("a", "Neurons"), ("b", "Dense"))}
    assert taps.select(both, only.sites).keys() == both.keys()
    # Another width is another sweep.
    wider = binarization_experiment.BinarizationOptions(centers=(10.0, 50.0), width=20.0)
    with store.opened(tmp_path / "stopped", CONFIG), pytest.raises(InputError, match="holds windows of width 10"):
        binarization_experiment.experiment(Session(CONFIG, wider, tmp_path / "stopped"))


def test_windows_are_together_where_that_takes_seconds():
    options = binarization_experiment.BinarizationOptions()
    assert readouts.way(options, convolutional=False, images=50 * 1_437) == (10, "convolutions")
    assert readouts.way(options, convolutional=False, images=50 * 60_000) == (1, "convolutions")
    assert readouts.way(options, convolutional=True, images=10) == (1, "convolutions")
    asked = replace(options, together=3)
    assert readouts.way(asked, convolutional=False, images=10**9) == (3, "convolutions")
    assert readouts.way(asked, convolutional=True, images=10**9) == (3, "patches")
    assert readouts.way(replace(asked, form="convolutions"), convolutional=True, images=1) == (3, "convolutions")
    assert readouts.way(replace(options, form="products"), convolutional=True, images=1) == (1, "products")


def test_windows_of_a_form_that_is_asked_for_are_together_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    options = binarization_experiment.BinarizationOptions()
    assert readouts.way(options, convolutional=False, images=10**9) == (10, "convolutions")
    assert readouts.way(options, convolutional=True, images=1) == (1, "convolutions")
    for form in ("products", "patches"):
        assert readouts.way(replace(options, form=form), convolutional=True, images=1) == (10, form)
    assert readouts.way(replace(options, form="patches", together=2), convolutional=True, images=1) == (2, "patches")


def test_untrained_sources_are_the_network_s_own_start(studied, digits):
    study, variables = studied
    trained = jax.tree.map(lambda leaf: leaf + 1, variables)
    found = subjects.Subject(CONFIG, study.model, trained, study.sites, digits, Path())
    start = sources.network(study.model, variables, study.sites)(digits.test.inputs)
    np.testing.assert_array_equal(found.source("untrained")(digits.test.inputs)["dense1"], start["dense1"])
    assert (found.source("trained")(digits.test.inputs)["dense1"] != start["dense1"]).any()
    assert set(found.source("projection")(digits.test.inputs)) == {"dense1", "dense2"}
