"""Probes: counts against loops, logistic regression against scikit-learn, and the sweep that is read by them."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from experiments import binarization as binarization_experiment
from experiments.command_line import Session
from neuron_mech import store
from neuron_mech.codes import linear_probes, windowing
from neuron_mech.codes.windowing import Window
from neuron_mech.config import PRESETS
from neuron_mech.errors import InputError
from neuron_mech.taps import Site
from small_mlp import CONFIG

# --- Counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("positions", "kind"), [((), "u1"), ((15, 17), "u1"), ((16, 16), "u2"), ((112, 112), "u2")])
def test_counts_are_the_smallest_integers_that_hold_them(positions, kind):
    assert linear_probes.count_type(Site("s", "Neurons", (*positions, 3), jnp.float32)) == np.dtype(kind)


def test_counts_are_those_of_a_loop(digits, tmp_path):
    """Two sites of one source, one with positions; files of the bytes that were announced."""
    sites = {"map": Site("map", "Neurons", (8, 8, 1), jnp.float32), "rows": Site("rows", "Neurons", (8,), jnp.float32)}
    source = Partial(lambda inputs: {"map": inputs, "rows": inputs.mean((2, 3))})
    images = np.asarray(digits.test.inputs)
    values = {"map": images.reshape(-1, 1), "rows": images.mean((2, 3))}
    windows = {name: windowing.at_centers(values[name], (5, 45, 95), 10.0) for name in sites}
    files = {name: tmp_path / "features" / f"{name}.npy" for name in sites}
    linear_probes.count(source, windows, sites, digits.test, files, tmp_path / "labels.npy", chunk=100)
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), digits.test.labels)
    assert sum(np.load(files[name]).nbytes for name in sites) == linear_probes.nbytes(sites, 3, 360)
    for name, shape in (("map", (360, 64, 1)), ("rows", (360, 1, 8))):
        found = np.load(files[name])
        seen = np.asarray(source(digits.test.inputs)[name]).reshape(shape)
        for index in range(3):
            low, high = (np.asarray(edge[index]) for edge in (windows[name].lower, windows[name].upper))
            expected = ((seen >= low) & (seen < high)).sum(1)
            assert (
                found[index] != expected
            ).mean() < 1e-3  # means of chunks of other sizes may round an edge differently
    assert [path.name for path in (tmp_path / "features").iterdir()] in (
        ["map.npy", "rows.npy"],
        ["rows.npy", "map.npy"],
    )


def test_a_pass_that_is_stopped_leaves_no_file(digits, tmp_path, monkeypatch):
    sites = {"rows": Site("rows", "Neurons", (8,), jnp.float32)}
    window = {"rows": Window(jnp.zeros((1, 8)), jnp.ones((1, 8)))}

    def walk(samples, size, what):
        yield next(samples.chunks(size))
        raise KeyboardInterrupt

    monkeypatch.setattr(linear_probes, "walk", walk)
    with pytest.raises(KeyboardInterrupt):
        linear_probes.count(
            Partial(lambda inputs: {"rows": inputs.mean((2, 3))}),
            window,
            sites,
            digits.test,
            {"rows": tmp_path / "counts.npy"},
            tmp_path / "labels.npy",
            50,
        )
    assert not list(tmp_path.iterdir())


# --- Logistic regression ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1e-1, 1e-2])
def test_a_probe_is_scikit_learn_s(digits, penalty, monkeypatch):
    """Coefficients, probabilities' order and accuracy; a column that never varies is worth nothing."""
    images = np.asarray(digits.train.images).reshape(-1, 64), np.asarray(digits.test.images).reshape(-1, 64)
    labels = np.asarray(digits.train.labels), np.asarray(digits.test.labels)
    # Coefficients are as near as the tolerance over the penalty; float32's rounding ends the search at 1e-5 or a little
    # above, by processor.
    monkeypatch.setattr(linear_probes, "TOLERANCE", 3e-5)
    probe = linear_probes.fit(images[0], labels[0], 10, penalty)
    assert probe.converged
    scaler = StandardScaler().fit(images[0])
    model = LogisticRegression(C=1 / (penalty * len(labels[0])), tol=1e-6, max_iter=5000)
    model.fit(scaler.transform(images[0]), labels[0])
    varies = images[0].std(0) > 0
    assert not varies.all()
    assert (probe.weights[~varies] == 0).all()
    np.testing.assert_allclose(probe.weights, model.coef_.T, atol=2e-3)
    np.testing.assert_allclose(probe.bias - probe.bias.mean(), model.intercept_ - model.intercept_.mean(), atol=2e-2)
    expected = model.predict_proba(scaler.transform(images[1]))
    assert linear_probes.accuracy(probe, images[1], labels[1]) == pytest.approx(
        model.score(scaler.transform(images[1]), labels[1]), abs=2 / 360
    )
    best = np.argsort(-expected, axis=1)[:, :3]
    assert linear_probes.accuracy(probe, images[1], labels[1], top=3) == pytest.approx(
        (best == labels[1][:, None]).any(1).mean(), abs=2 / 360
    )


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_that_are_no_classes_are_refused(label):
    with pytest.raises(InputError, match=rf"labels: {label} is none of 2 classes, .* first in row 1"):
        linear_probes.fit(np.eye(3), np.array([0, label, 1]), 2, 1.0)


def test_blocks_change_nothing_and_padding_counts_for_nothing(digits, monkeypatch):
    images, labels = np.asarray(digits.train.images).reshape(-1, 64), np.asarray(digits.train.labels)
    whole = linear_probes.fit(images, labels, 10, 1e-2)
    monkeypatch.setattr(linear_probes, "ROWS", 100)  # 1,437 are 15 blocks, the last of 37
    blocks = linear_probes.fit(images, labels, 10, 1e-2)
    np.testing.assert_allclose(blocks.weights, whole.weights, atol=1e-3)
    np.testing.assert_array_equal(linear_probes.fit(images, labels, 10, 1e-2).weights, blocks.weights)  # to the bit


def test_a_probe_says_where_it_has_not_converged(digits):
    images, labels = np.asarray(digits.train.images).reshape(-1, 64), np.asarray(digits.train.labels)
    probe = linear_probes.fit(images, labels, 10, 1e-3, evaluations=3)
    assert not probe.converged
    assert probe.gradient > linear_probes.TOLERANCE


# --- The sweep --------------------------------------------------------------------------------------------------------


def test_a_sweep_read_by_probes_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    options = binarization_experiment.BinarizationOptions(centers=(5.0, 45.0), readout="probe")

    def sweep(directory, options=options):
        with store.opened(directory, CONFIG):
            binarization_experiment.experiment(Session(CONFIG, options, directory))
        return store.read_dataset(directory / "binarization.nc")

    whole = sweep(tmp_path / "whole")
    assert np.isfinite(whole.accuracy_by_seed).all()
    assert whole.attrs["readout"] == "probe"
    assert "linear probe" in whole.accuracy.attrs["description"]
    assert float(whole.accuracy.min()) > 2 * float(whole.chance)
    assert not (tmp_path / "whole" / "features").exists()  # removed with the sweep's end
    out = capsys.readouterr().out
    assert "features of 6 x 2 windows: 0.7 MB in " in out  # 1,797 images x 32 neurons x 12 windows

    fits, counts = [], []
    fit, count = linear_probes.fit, linear_probes.count

    def stopping(*arguments):
        if len(fits) == 5:
            fits.append("stopped")
            raise KeyboardInterrupt
        fits.append("fit")
        return fit(*arguments)

    monkeypatch.setattr(linear_probes, "fit", stopping)
    monkeypatch.setattr(linear_probes, "count", lambda *arguments: (counts.append(1), count(*arguments)))
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "stopped")
    assert int(np.isfinite(store.read_dataset(tmp_path / "stopped" / "binarization.nc").accuracy_by_seed).sum()) == 5
    assert len(counts) == 2  # one pass over each split, for all sources and sites
    sweep(tmp_path / "stopped")
    assert len(counts) == 2  # the features were there
    assert fits.count("fit") == 12
    assert (tmp_path / "stopped" / "binarization.nc").read_bytes() == (
        tmp_path / "whole" / "binarization.nc"
    ).read_bytes()
    with pytest.raises(InputError, match="holds windows of readout probe, not retrain"):
        sweep(tmp_path / "stopped", replace(options, readout="retrain"))
    with pytest.raises(InputError, match=r"holds windows of penalty 0.001, not 0.1"):
        sweep(tmp_path / "stopped", replace(options, penalty=0.1))


def test_a_network_that_is_not_trained_here_has_the_probe_only():
    model = replace(PRESETS["imagenet-resnet50"].model, weights="random")
    assert binarization_experiment.BinarizationOptions(model=model).reading == "probe"
    assert binarization_experiment.BinarizationOptions().reading == "retrain"
    with pytest.raises(InputError, match=r"--readout is retrain, but model.weights is random"):
        binarization_experiment.check(binarization_experiment.BinarizationOptions(model=model, readout="retrain"))
    with pytest.raises(InputError, match=r"--penalty is 0.0: give a positive"):
        binarization_experiment.check(binarization_experiment.BinarizationOptions(penalty=0.0))
