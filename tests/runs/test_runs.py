"""Whole runs on a shrunken real preset: results, resuming, going wrong."""

from dataclasses import replace

import numpy as np
import pytest

from experiments import gradient_signs, train
from live_events import events
from neuron_mech import runs, store
from neuron_mech.errors import RunError
from neuron_mech.paper import figures
from neuron_mech.runs import loop
from small_runs import SMALL, digest, finished

KINDS = ("pdf", "png", "svg")
MORE = ("figure5_by_phase", "constancy")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A small run with its results."""
    directory = tmp_path_factory.mktemp("undisturbed")
    run = finished(SMALL, directory)
    gradient_signs.report(run)
    return run, directory


def test_a_run_leaves_what_the_contract_says(undisturbed):
    _run, directory = undisturbed
    signs = store.read_dataset(directory / "gradient_signs.nc")
    assert signs.constancy.dims == ("site",)
    assert list(signs.site.values) == ["dense1", "dense2"]
    assert list(signs.label.values) == ["dense1-relu", "dense2-relu"]
    assert int(signs.recordings) == 36
    for variable in signs.data_vars.values():
        assert variable.attrs["units"]
        assert variable.attrs["description"]
    assert {f.name for f in (directory / "figures").iterdir()} == {
        "samples.png",
        *(f"{name}.{kind}" for name in ("figure1", "figure5", *MORE, "training") for kind in KINDS),
    }
    loss = store.read_dataset(directory / "train.nc")
    assert loss.loss.shape == (180,)
    assert np.isfinite(loss.loss).all()
    assert float(loss.test_accuracy[-1]) > 0.85


def test_the_file_says_what_the_tallies_say(undisturbed):
    run, directory = undisturbed
    signs = store.read_dataset(directory / "gradient_signs.nc")
    for site, tally in run.tallies["margin"].items():
        with np.errstate(invalid="ignore"):
            p, n = (np.asarray(a, np.float64) for a in (tally.positive, tally.negative))
            average = (p - n) / (p + n)
        seen = average[~np.isnan(average)]
        at = signs.sel(site=site)
        assert float(at.constancy) == pytest.approx((np.abs(seen) > 0.9 + 1e-12).mean())
        assert float(at.low_share) == pytest.approx((seen > 0).mean())
        assert int(at.histogram.sum()) == seen.size
        assert float(at.zero_share[0]) == pytest.approx(1 - (p + n).sum() / (36 * p.size))
        assert float(at.constancy_so_far[-1]) == pytest.approx(float(at.constancy))
        assert int(signs.neuron_histogram.sel(neuron_site=site).sum()) == seen.size
        nonzero = (p + n).sum() - seen.size
        assert float(at.flips_per_recording) == pytest.approx(np.asarray(tally.flips).sum() / nonzero)


def test_phases_add_up_to_the_whole(tmp_path):
    run = finished(replace(SMALL, record=replace(SMALL.record, saturation=0.5)), tmp_path)
    epoch = int(run.state.history["saturation_epoch"][0])
    assert 0 < epoch < 4
    before = run.state.at_saturation["dense1"]
    assert int(before[0].max() + before[1].max()) >= 9 * epoch  # 9 recordings an epoch
    assert int((before[0] + before[1]).max()) <= 9 * epoch
    found = gradient_signs.dataset(run)
    assert np.isfinite(found.constancy_by_phase).all()
    # The first phase is what had been recorded by that epoch's end.
    np.testing.assert_allclose(found.constancy_by_phase.sel(phase="before"), found.constancy_so_far.sel(epoch=epoch))


def test_objectives_and_sites_keep_the_order_they_were_asked_in(tmp_path):
    record = replace(SMALL.record, sites=("dense2", "dense1"), compare_objectives=("keras2017", "cross_entropy"))
    run = finished(replace(SMALL, record=record, train=replace(SMALL.train, epochs=1)), tmp_path)
    assert list(run.tallies) == ["margin", "keras2017", "cross_entropy"]
    assert list(run.tallies["margin"]) == ["dense2", "dense1"]
    found = gradient_signs.dataset(run)
    for index, site in enumerate(("dense2", "dense1")):
        p, n = (
            np.asarray(a, np.float64)
            for a in (run.tallies["margin"][site].positive, run.tallies["margin"][site].negative)
        )
        constancy = (np.abs(p - n) > 0.9 * (p + n) + 1e-9).mean()
        assert run.state.history["constancy"][0, index, 0] == pytest.approx(constancy)
        assert float(found.constancy.sel(site=site)) == pytest.approx(constancy)
    figures.objectives(found)


@pytest.mark.parametrize("mode", ["online", "train", "none"])
def test_the_other_modes_run_whole(tmp_path, mode):
    config = replace(SMALL, record=replace(SMALL.record, mode=mode), train=replace(SMALL.train, epochs=2))
    run = finished(config, tmp_path)
    if mode == "none":
        train.report(run)
        with pytest.raises(ValueError, match=r"record.mode is none"):
            gradient_signs.report(run)
        return
    if mode == "online":
        gradient_signs.report(run)
        found = store.read_dataset(tmp_path / "gradient_signs.nc")
    else:
        found = gradient_signs.dataset(run)  # without its figures, which are drawn as those of any mode
    assert int(found.recordings) == (2 if mode == "online" else 18)
    assert (found.mixing < 1e-4).all()  # dropout does not mix samples


def test_the_same_command_again_trains_nothing_and_writes_the_same(undisturbed, monkeypatch):
    _, directory = undisturbed
    before = digest(directory)
    monkeypatch.setattr(loop, "_drive", lambda *_: pytest.fail("it trained again"))
    gradient_signs.report(finished(SMALL, directory))
    assert digest(directory) == before


def test_a_loss_that_is_not_finite_stops_with_step_rate_and_checkpoint(tmp_path):
    config = replace(SMALL, train=replace(SMALL.train, learning_rate=1e20))
    with pytest.raises(
        RunError, match=r"loss is (nan|inf) at step \d+ \(epoch 1\) with train.learning_rate 1e\+20.*none"
    ):
        finished(config, tmp_path)


def test_the_last_good_checkpoint_is_named_and_stays(tmp_path, monkeypatch):
    original = runs.segment

    def poisoned(study, state, *rest):
        after, counts, losses = original(study, state, *rest)
        return after, counts, loop.jax.numpy.where(after.step > 90, loop.jax.numpy.nan, losses)

    monkeypatch.setattr("neuron_mech.runs.segments.segment", poisoned)
    said = (
        r"loss is nan at step 90 \(epoch 3\) with train.learning_rate 0.1: .*last good checkpoint is .*checkpoints/18"
    )
    with store.opened(tmp_path, SMALL), pytest.raises(RunError, match=said):
        runs.run(SMALL, tmp_path, save_seconds=0.0)
    assert sorted(int(d.name) for d in (tmp_path / "checkpoints").iterdir()) == [17, 18]


def test_a_run_can_be_watched_live_and_says_what_it_takes(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra live is not installed")
    said: list[str] = []
    config = replace(SMALL, train=replace(SMALL.train, epochs=2))
    with store.opened(tmp_path / "run", config) as directory:
        done = runs.run(config, directory, say=said.append, live=tmp_path / "live")
    found = events(tmp_path / "live")
    steps = [done.study.batches, 2 * done.study.batches]
    for name in ("loss", "train_accuracy", "test_accuracy", "constancy/dense1", "average_sign/dense2"):
        assert [step for step, _ in found[name]] == steps
    history = done.state.history
    assert [value for _, value in found["test_accuracy"]] == pytest.approx(history["test_accuracy"])
    assert [value for _, value in found["constancy/dense1"]] == pytest.approx(history["constancy"][0, 0])
    assert found["loss"][1][1] == pytest.approx(history["loss"][steps[0] :].mean())
    lines = said[0].splitlines()
    assert [line.split()[0] for line in lines] == ["recordings", "dense1", "dense2", "memory", "disk", "in"]
    assert "1,437 samples x 64 values" in lines[1]
    assert max(len(line) for line in lines[:-1]) < 100
