"""Trajectories: the right values of the right samples, within the announced bytes, whatever happens on the way."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from test_segments import after

import oracles
from drawn import started
from neuron_mech import runs, store
from neuron_mech.config import Config, Model, Record, Train, Watch
from neuron_mech.errors import Interrupted, RunError
from neuron_mech.runs import costs, planning, trajectories
from neuron_mech.store import files as files_of
from neuron_mech.taps import Site

SMALL = Config(
    "digits",
    model=Model(width=1 / 32),
    train=Train(batch_size=64, epochs=3),
    record=Record(every=5, samples=300, chunk=128),
    watch=Watch(recordings=7, samples=50, neurons=2, wide_recordings=4, wide_samples=30, named=("dense2:5",)),
)


def finished(config, directory, **options):
    with store.opened(directory, config):
        return runs.run(config, directory, say=lambda _: None, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished(SMALL, tmp_path_factory.mktemp("run"))


def test_values_are_those_of_the_parameters_at_each_recording_kept(run, digits):
    study, _, _, before = after(SMALL, digits, 3)
    recorded = digits.train.rows(study.recorded)
    kept = run.trajectories
    assert [watch.shape("dense2") for watch in kept.watching] == [(7, 50, 3), (4, 30, 16)]
    for watch in kept.watching:
        np.testing.assert_array_equal(watch.segments[[0, -1]], [0, study.segments - 1])
        assert np.ptp(np.diff(watch.segments)) <= 1  # evenly spread
        for row, segment in enumerate(watch.segments):
            network = oracles.MLP(before[segment].params, "relu")
            forward = [network.forward(np.asarray(x)) for x in recorded.inputs[: watch.samples]]
            for index, site in enumerate(("dense1", "dense2")):
                expected = np.stack([layers[index] for layers, _ in forward])[:, watch.neurons[site]]
                np.testing.assert_allclose(kept.values(watch.name, site)[row], expected, atol=1e-5)
            right = np.mean([logits.argmax() == y for (_, logits), y in zip(forward, recorded.labels, strict=False)])
            assert kept.watched["accuracy"][watch.name][row] == pytest.approx(right)


def test_kept_parameters_are_those_before_their_segments(run, digits):
    study, _, _, before = after(SMALL, digits, 3)
    kept = run.trajectories.all_weights()
    segments = run.trajectories.weights.segments
    assert len(segments) == study.segments  # fewer than 90: all
    for row, segment in enumerate(segments):
        leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(before[segment].params)]
        np.testing.assert_array_equal(kept[row], np.concatenate(leaves))
    few = replace(SMALL, watch=replace(SMALL.watch, weights=4))
    chosen = trajectories.weights(replace(study, config=few)).segments
    assert list(chosen) == [round(k * (study.segments - 1) / 3) for k in range(4)]


def test_parameters_are_not_kept_where_that_would_be_much_or_say_little(run, monkeypatch):
    study = run.study
    nothing = replace(SMALL, watch=replace(SMALL.watch, weights=0))
    assert trajectories.weights(replace(study, config=nothing)) is None
    shapes = {**study.design.shapes, "batch_stats": {}}
    normalised = replace(study, plan=replace(study.plan, design=replace(study.design, shapes=shapes)))
    assert trajectories.weights(normalised) is None
    monkeypatch.setattr(trajectories, "LARGEST_WEIGHTS", trajectories.weights(study).nbytes - 1)
    assert trajectories.weights(study) is None


def test_categories_at_half_are_those_of_the_first_half_of_the_epochs(run, digits):
    _, _, tallies, _ = after(SMALL, digits, 1)  # of 3
    for site, tally in tallies["margin"].items():
        expected = np.sign(np.asarray(tally.positive, int) - np.asarray(tally.negative, int))
        np.testing.assert_array_equal(run.state.at_half[site], expected)


def test_named_neurons_are_watched_beside_random_ones(run):
    watch = run.trajectories["close"]
    assert 5 in watch.neurons["dense2"]
    assert len(set(watch.neurons["dense2"])) == 3
    assert len(watch.neurons["dense1"]) == 2


def test_files_take_exactly_the_announced_bytes(run, digits):
    directory = run.trajectories.directory
    cost = costs.cost(run.study, digits, planning.abstract_state(run.study, planning.study(SMALL, digits)[1]))
    assert sum(file.stat().st_size for file in directory.iterdir()) == cost.trajectories
    assert {file.name for file in directory.iterdir()} == {
        *("close-dense1.npy", "close-dense2.npy", "wide-dense1.npy", "wide-dense2.npy", "weights.npy")
    }


def test_watching_changes_nothing_else(run, tmp_path):
    plain = finished(replace(SMALL, watch=Watch(recordings=0)), tmp_path)
    assert not plain.trajectories.watching
    assert not (tmp_path / "trajectories").exists()
    for one, other in zip(
        jax.tree.leaves((run.state.recorded, run.state.train.params, run.state.history)),
        jax.tree.leaves((plain.state.recorded, plain.state.train.params, plain.state.history)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def files(directory):
    return {file.name: file.read_bytes() for file in (directory / "trajectories").iterdir()}


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_run_stopped_and_resumed_keeps_the_same_bytes(run, tmp_path, monkeypatch, at):
    with monkeypatch.context() as patch:
        # The state saved at the last save lacks what was kept after it: the resumed run writes those rows again.
        calls = []
        write = trajectories.Trajectories.write

        def stop(self, *arguments):
            calls.append(0)
            if len(calls) > at:
                raise Interrupted(15, "stopped")
            write(self, *arguments)

        patch.setattr(trajectories.Trajectories, "write", stop)
        with pytest.raises(Interrupted):
            finished(SMALL, tmp_path, save_seconds=0.0)
    finished(SMALL, tmp_path)
    assert files(tmp_path) == files(run.trajectories.directory.parent)


def test_a_flipped_byte_is_found_when_resuming_and_when_reading(tmp_path):
    done = finished(SMALL, tmp_path)
    path = tmp_path / "trajectories" / "wide-dense1.npy"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"wide-dense1.npy does not verify in 1 of 4 recordings \(row \d\); .*remove"):
        done.trajectories.values("wide", "dense1")
    with pytest.raises(RunError, match="does not verify"):
        done.trajectories.verify(done.study.segments)
    path.write_bytes(data[:1000])
    with pytest.raises(RunError, match=r"wide-dense1.npy cannot be read"):
        done.trajectories.verify(done.study.segments)
    path.unlink()
    with pytest.raises(RunError, match=r"wide-dense1.npy cannot be read"):
        done.trajectories.values("wide", "dense1")


def test_a_full_disk_stops_the_run_in_a_line_and_loses_nothing(run, tmp_path, monkeypatch):
    original, writes = files_of.change, []

    def full(path):
        writes.append(0)
        if len(writes) > 15:
            raise OSError(28, "No space left on device")
        return original(path)

    with monkeypatch.context() as patch:
        patch.setattr(files_of, "change", full)
        with pytest.raises(RunError, match=r"cannot write .*\.npy \(No space left on device; .*make room"):
            finished(SMALL, tmp_path, save_seconds=0.0)
    finished(SMALL, tmp_path)
    assert files(tmp_path) == files(run.trajectories.directory.parent)


def test_what_a_watch_sees_of_a_tally(run):
    study = run.study
    places = Site("conv", "Neurons", (2, 3, 16), np.float32)
    chosen = {"neurons": {"conv": np.array([1, 4, 9])}, "rows": {"conv": 300}, "positions": {"conv": None}}
    design = replace(study.design, sites={"conv": places}, **chosen)
    wide = replace(study, plan=replace(study.plan, design=design))
    close, all_neurons = trajectories.watches(replace(wide, config=replace(SMALL, watch=Watch(samples=20, neurons=2))))
    pairs = np.arange(300 * 6 * 3).reshape(300, 2, 3, 3)
    for watch in (close, all_neurons):
        found = trajectories.seen(wide, watch, "conv", pairs)
        for sample in range(watch.samples):
            row, column = divmod(int(watch.positions["conv"][sample]), 3)
            columns = [[1, 4, 9].index(neuron) for neuron in watch.neurons["conv"]]
            np.testing.assert_array_equal(found[sample], pairs[sample, row, column, columns])
    assert len(set(close.positions["conv"])) > 1
    np.testing.assert_array_equal(close.positions["conv"], all_neurons.positions["conv"][:20])


def test_one_position_of_each_sample_is_read(digits):
    """At a site with positions, what is read is that position's value."""
    import flax.linen as nn
    import jax.numpy as jnp

    from neuron_mech.training.models import Neurons

    class Conv(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            x = Neurons(name="conv")(nn.Conv(4, (3, 3), name="affine")(images))
            return nn.Dense(10)(x.mean((1, 2)))

    study, state = planning.study(SMALL, digits)
    model = Conv()
    variables = started(model, 0, jnp.zeros((1, 8, 8, 1)))
    sites = {"conv": Site("conv", "Neurons", (8, 8, 4), np.float32)}
    one = {"conv": None}
    rows = {"conv": len(study.recorded)}
    design = replace(study.design, model=model, sites=sites, rows=rows, neurons=one, positions=one)
    config = replace(SMALL, watch=Watch(samples=20, wide_samples=20))
    study = replace(study, model=model, config=config, plan=replace(study.plan, design=design))
    recorded = digits.train.rows(study.recorded)
    watch = trajectories.watches(study)[1]
    found, _ = trajectories.read(study, watch, state.replace(params=variables["params"]), recorded)
    _, all_values = model.apply(variables, recorded.inputs[:20], mutable=["intermediates"])
    values = all_values["intermediates"]["conv"]["pre_activation"][0].reshape(20, 64, 4)
    expected = values[np.arange(20), watch.positions["conv"]]
    np.testing.assert_allclose(found["conv"], expected, atol=1e-6)
