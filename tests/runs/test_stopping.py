"""Runs that are asked to stop, killed or damaged: saved, gone on with, and in the end the same bits."""

import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neuron_mech import runs, store
from neuron_mech.cluster.stopping import stopping
from neuron_mech.errors import RunError
from neuron_mech.store import checkpoints
from small_runs import SMALL, command, digest, finished

pytestmark = pytest.mark.long


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


def newest(directory: Path) -> int:
    """The number of the newest checkpoint; -1 where there is none."""
    return max((int(d.name) for d in (directory / "checkpoints").glob("*") if d.name.isdecimal()), default=-1)


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bits(tmp_path, request):
    """SIGKILL while it starts, or some saves later, often in the middle of one: a save follows every segment."""
    kills, directory = request.config.getoption("--kills"), tmp_path / "killed"
    longer = ("--train.epochs", str(max(4, 2 * kills)))  # so that it is not done before the last kill
    _, err = (plain := command(tmp_path / "plain", *longer)).communicate()
    assert plain.returncode == 0, err
    moments, alive = np.random.default_rng(), 0
    for _ in range(kills):
        saves = int(moments.integers(4))
        last = newest(directory) + saves
        running = command(directory, *longer, "--save-seconds", "0")
        running.until(lambda last=last: newest(directory) >= last)
        time.sleep(moments.uniform(0, 0.3 if saves else 2))  # compilation, or one save after another
        alive += running.poll() is None
        running.kill()
    assert alive > kills / 2
    _, err = (last := command(directory, *longer)).communicate()
    assert last.returncode == 0, err
    assert digest(directory) == digest(tmp_path / "plain")
    config = replace(SMALL, train=replace(SMALL.train, epochs=int(longer[1])))
    one, other = (checkpoints.checksums(finished(config, tmp_path / name).state) for name in ("plain", "killed"))
    assert one == other


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_goes_on_later(tmp_path, signum):
    running = command(tmp_path, "--train.epochs", "4000", name="train")
    running.until(lambda: "batch/s" in running.err)
    time.sleep(0.5)
    asked = time.monotonic()
    running.send_signal(signum)
    _, err = running.communicate(timeout=60)
    assert time.monotonic() - asked < 10
    assert running.returncode == 128 + signum
    assert re.search(rf"{signum.name}: saved at step \d+; the same command goes on from there", err)
    step = int(re.search(r"saved at step (\d+)", err).group(1))
    again = command(tmp_path, "--train.epochs", "4000", name="train")
    again.until(lambda: "batch/s" in again.err)
    again.send_signal(signal.SIGTERM)
    out, err = again.communicate(timeout=60)
    assert f"resuming {tmp_path} at epoch {step / 45:.1f}" in out
    assert int(re.search(r"saved at step (\d+)", err).group(1)) >= step


def test_a_flipped_byte_is_said_and_the_step_before_goes_on(tmp_path):
    running = command(tmp_path, "--save-seconds", "0")
    running.until(lambda: len([d for d in (tmp_path / "checkpoints").glob("*") if d.name.isdigit()]) >= 2)
    assert running.poll() is None, running.err
    running.send_signal(signal.SIGTERM)
    running.wait(60)
    last = str(newest(tmp_path))
    file = max(
        ((tmp_path / "checkpoints" / last / "state").rglob("*")), key=lambda f: f.stat().st_size if f.is_file() else 0
    )
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    again = command(tmp_path)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"checkpoint of step {last} does not verify" in out
    reference = finished(SMALL, tmp_path)
    assert int(reference.state.train.step) == 180
    assert os.listdir(tmp_path / "checkpoints-damaged") == [last]
