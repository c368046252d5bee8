"""Whole runs on a shrunken real preset: results, resuming, being killed, going wrong."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import gradient_signs, train
from live_events import events
from neuron_mech import runs, store
from neuron_mech.cluster.stopping import stopping
from neuron_mech.config import PRESETS, Config, Model
from neuron_mech.errors import RunError
from neuron_mech.paper import figures
from neuron_mech.runs import loop
from neuron_mech.store import checkpoints
from places import ROOT

KINDS = ("pdf", "png", "svg")
MORE = ("figure5_by_phase", "constancy")
SMALL = replace(PRESETS["digits"], train=replace(PRESETS["digits"].train, epochs=4), model=Model(width=1 / 8))
ARGUMENTS = ("digits", "--train.epochs", "4", "--model.width", "0.125")


def finished(config: Config, directory: Path):
    with store.opened(directory, config):
        return runs.run(config, directory)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A small run with its results."""
    directory = tmp_path_factory.mktemp("undisturbed")
    run = finished(SMALL, directory)
    gradient_signs.report(run)
    return run, directory


def digest(directory: Path) -> dict[str, str]:
    """Every result file's SHA-256."""
    files = [*directory.glob("*.nc"), *directory.glob("figures/*.png"), *directory.glob("trajectories/*.npy")]
    return {str(f.relative_to(directory)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


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
    gradient_signs.report(run)
    found = store.read_dataset(tmp_path / "gradient_signs.nc")
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


@pytest.mark.parametrize("signum", runs.STOPPING)
def test_whatever_asks_to_stop_is_heard(signum):
    ours = signal.signal(signum, signal.SIG_DFL)  # tests in the background may have been told to ignore it
    try:
        with stopping() as received:
            os.kill(os.getpid(), signum)
            assert received == [signum]
        assert signal.getsignal(signum) == signal.SIG_DFL
    finally:
        signal.signal(signum, ours)


def test_what_is_ignored_stays_ignored():
    """As under nohup, when the terminal ends."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_beginning_again_names_what_was_damaged(tmp_path):
    config, said = replace(SMALL, train=replace(SMALL.train, epochs=1)), []
    finished(config, tmp_path)
    for step in (tmp_path / "checkpoints").iterdir():
        file = max(((step / "state").rglob("*")), key=lambda f: f.stat().st_size if f.is_file() else 0)
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(RunError, match="no older one is left"):
        finished(config, tmp_path)
    with store.opened(tmp_path, config):
        runs.run(config, tmp_path, say=said.append)
    assert any("beginning again; damaged ones are in" in line and "checkpoints-damaged" in line for line in said)


# --- In real processes ------------------------------------------------------------------------------------------------


def command(directory: Path, *more: str, name: str = "gradient_signs", **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}", *ARGUMENTS, "--run-dir", str(directory), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,
    )


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bits(tmp_path, request):
    """SIGKILL at random moments of training and, with a save after every segment, often in the middle of one."""
    kills = request.config.getoption("--kills")
    longer = ("--train.epochs", str(max(4, 2 * kills)))  # so that it is not done before the last kill
    _, err = (plain := command(tmp_path / "plain", *longer)).communicate(timeout=600)
    assert plain.returncode == 0, err
    moments, alive = np.random.default_rng(), 0
    for _ in range(kills):
        running = command(tmp_path / "killed", *longer, "--save-seconds", "0")
        while running.poll() is None and not (tmp_path / "killed" / "checkpoints").exists():
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 6))  # imports, compilation, then one save after another
        alive += running.poll() is None
        running.kill()
        running.communicate()
    assert alive > kills / 2
    _, err = (last := command(tmp_path / "killed", *longer)).communicate(timeout=600)
    assert last.returncode == 0, err
    assert digest(tmp_path / "killed") == digest(tmp_path / "plain")
    config = replace(SMALL, train=replace(SMALL.train, epochs=int(longer[1])))
    one, other = (checkpoints.checksums(finished(config, tmp_path / name).state) for name in ("plain", "killed"))
    assert one == other


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_goes_on_later(tmp_path, signum):
    running = command(tmp_path, "--train.epochs", "4000", name="train")
    for line in iter(running.stderr.readline, ""):
        if "batch/s" in line:
            break
    time.sleep(3)
    asked = time.monotonic()
    running.send_signal(signum)
    _, err = running.communicate(timeout=60)
    assert time.monotonic() - asked < 10
    assert running.returncode == 128 + signum
    assert re.search(rf"{signum.name}: saved at step \d+; the same command goes on from there", err)
    step = int(re.search(r"saved at step (\d+)", err).group(1))
    again = command(tmp_path, "--train.epochs", "4000", name="train")
    resuming = next((line for line in iter(again.stdout.readline, "") if line.startswith("resuming")), "")
    again.send_signal(signal.SIGTERM)
    _, err = again.communicate(timeout=60)
    assert f"resuming {tmp_path} at epoch {step / 45:.1f}" in resuming
    assert int(re.search(r"saved at step (\d+)", err).group(1)) >= step


def test_a_flipped_byte_is_said_and_the_step_before_goes_on(tmp_path):
    running = command(tmp_path, "--save-seconds", "0")
    while len([d for d in (tmp_path / "checkpoints").glob("*") if d.name.isdigit()]) < 2:
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    newest = max((d for d in (tmp_path / "checkpoints").iterdir() if d.name.isdigit()), key=lambda d: int(d.name))
    file = max(((newest / "state").rglob("*")), key=lambda f: f.stat().st_size if f.is_file() else 0)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    again = command(tmp_path)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"checkpoint of step {newest.name} does not verify" in out
    reference = finished(SMALL, tmp_path)
    assert int(reference.state.train.step) == 180
    assert os.listdir(tmp_path / "checkpoints-damaged") == [newest.name]


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
