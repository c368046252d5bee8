"""Several processes against one: two real ones on this machine, stopped, killed and resumed."""

import json
import os
import re
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

from forking import Forked, simulated
from neuron_mech.cluster import joining, processes
from neuron_mech.errors import InputError

pytestmark = pytest.mark.long

# Directory, place, file for what was found, and a signal that the process sends itself in its so many-th segment.
PROGRAM = """
import itertools, json, os, sys, zlib
from dataclasses import replace
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from experiments.command_line import exiting
from neuron_mech import runs, store
from neuron_mech.cluster import joining, processes
from neuron_mech.codes import evaluation, quantization
from neuron_mech.runs import costs, loop, planning
from neuron_mech.runs import study as studies
from neuron_mech.store import checkpoints
from neuron_mech.training import datasets
from neuron_mech.config import Config, Data, Model, Record, Train, Watch

directory, place, found, signum, segment = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:])
config = Config(
    "digits",
    model=Model(width=1 / 32),
    train=Train(batch_size=16, epochs=4),
    record=Record(every=3, samples=37, chunk=3, site_samples=("dense1:13",), saturation=0.2),
    watch=Watch(recordings=5, wide_recordings=3, samples=20, wide_samples=20),
)

def advancing(study, compiled=loop.advancing):
    advance, calls = compiled(study), itertools.count(1)
    def counted(*arguments):
        if next(calls) == segment:
            os.kill(os.getpid(), signum)
        return advance(*arguments)
    return counted

load_all = datasets.load

def load(*_):
    digits = load_all(Data("digits"))
    return replace(digits, train=digits.train.rows(jnp.arange(96)), test=digits.test.rows(jnp.arange(60)))

def finished(config, directory):
    with store.opened(directory, config):
        return runs.run(config, directory, save_seconds=0.0)

def work():
    with joining.joined(place or None, 60):
        assert jax.device_count() == 2
        loop.advancing = advancing
        loop.datasets.load = load
        run = finished(config, directory)
        assert [t.positive.shape[0] for t in run.tallies["margin"].values()] == [13, 37]
        study = run.study
        cost = costs.cost(study, run.dataset, planning.abstract_state(study, run.state.train))
        held = jax.tree.leaves(studies.recorder(study, run.state.recorded).tallies)
        if study.design.mesh.size > 1:
            assert {a.addressable_shards[0].data.shape[0] for a in held} == {7, 19}  # half of 13 and of 37
        assert sum(a.addressable_shards[0].data.nbytes for a in held) == cost.counts
        values = np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)
        codes = quantization.at_ranks(jnp.asarray(values), (20.0, 80.0))
        variables, key = run.state.train.variables, jax.random.key(0)
        trials = {"noisy": evaluation.Trial("dense2", quantization.noisy, codes.high, key)}
        scores = evaluation.accuracies(study.model, variables, study.sites, trials, run.dataset.test, rows=20)
        online = replace(config, record=replace(config.record, mode="online"), train=replace(config.train, epochs=1))
        online = finished(online, directory.with_name(directory.name + "-online"))
        found.write_text(json.dumps({
            "state": checkpoints.checksums(run.state),
            "online": checkpoints.checksums(online.state),
            "saturation": run.state.history["saturation_epoch"].tolist(),
            "trajectories": zlib.crc32(run.trajectories.values("close", "dense2").tobytes()),
            "quantization": scores["noisy"].tolist(),
        }))

exiting(work)
"""


@pytest.fixture
def port() -> int:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]
    except OSError as error:
        pytest.skip(f"no loopback to join processes by: {error}")


def start(*arguments: object, devices: int = 1) -> Forked:
    """A process with so many simulated devices."""
    return Forked(*arguments, env=simulated(devices))


def ended(*running: Forked) -> list[tuple[int, str]]:
    """(exit code, stderr) of each."""
    try:
        return [(process.wait(180), process.err) for process in running]
    finally:
        for process in running:
            process.kill()


def two(port: int, directory: Path, found: Path, signum: int = 0, segment: int = 0) -> list[tuple[int, str]]:
    """Two processes of one device each; process 1 gets the signal."""
    return ended(
        *(
            start("-c", PROGRAM, directory, f"{i}/2@127.0.0.1:{port}", f"{found}{i}", signum * i, segment * i)
            for i in range(2)
        )
    )


def one(directory: Path, found: Path, signum: int = 0, segment: int = 0) -> tuple[int, str]:
    """One process of two devices."""
    return ended(start("-c", PROGRAM, directory, "", found, signum, segment, devices=2))[0]


def test_two_processes_train_record_and_quantize_as_one_does_whoever_goes_on(tmp_path, port):
    """Bit for bit, in one go or with each taking over from the other, stopped by a signal or killed."""
    changing, plain = tmp_path / "changing", tmp_path / "plain"
    for code, err in two(port, changing, tmp_path / "never", signal.SIGTERM, 2):
        assert code == 128 + signal.SIGTERM, err
    code, err = one(changing, tmp_path / "never", signal.SIGTERM, 2)
    assert (code, "SIGTERM: saved at step 12;" in err) == (128 + signal.SIGTERM, True), err
    (code, err), (killed, _) = two(port, changing, tmp_path / "never", signal.SIGKILL, 2)
    assert killed == -signal.SIGKILL
    assert code == 1, err
    assert "error: another process was lost" in err
    assert "run the same commands again" in err
    code, err = one(changing, tmp_path / "last")
    assert code == 0, err
    for code, err in two(port, plain, tmp_path / "plain"):
        assert code == 0, err
    found = [json.loads((tmp_path / name).read_text()) for name in ("last", "plain0", "plain1")]
    assert found[0]["saturation"][0] > 0
    for name in found[0]:
        assert found[0][name] == found[1][name] == found[2][name], name
    assert sorted(os.listdir(changing)) == sorted(os.listdir(plain))


def test_those_who_do_not_fit_together_end_with_a_line(tmp_path, port):
    def process(index: int, at: int, *more: object) -> Forked:
        place = ("--distributed", f"{index}/2@127.0.0.1:{at}")
        return start("-m", "experiments.train", "digits", "--run-dir", tmp_path / "run", *place, *more)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        lonely = probe.getsockname()[1]
    running = process(0, port), process(1, port, "--record.every", 3), process(0, lonely, "--patience", 3)
    (first, said), (second, why), (alone, missed) = ended(*running)
    assert (first, second, alone) == (2, 2, 2), said + why + missed
    differs = r"process 0 was asked for another run \(there / here\): --record.every: 5 / 3"
    assert re.search(f"^error: {differs}$", why, re.M), why
    assert re.search(f"^stopped with process 1 of 2: {differs}$", said, re.M), said
    assert "not all processes came within 3 seconds (--patience)" in missed
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("where", ["", "0", "2/2@node:1", "0/2", "0/2@node", "-1/2@node:1", "a/2@node:1"])
def test_a_place_that_is_none_is_refused(where):
    with pytest.raises(
        InputError, match=r"^--distributed is .*(INDEX/COUNT@HOST:PORT|indices of 2 processes are 0 to 1)"
    ):
        joining.place(where)


def test_places():
    assert joining.place("auto") == (None, None, None)
    assert joining.place("1/4@[::1]:1234") == ("[::1]:1234", 1, 4)


def test_one_process_is_left_alone():
    with joining.joined(None, 1):
        assert processes.first()
        assert not processes.several()
        assert processes.agreed(3, 0) == (3, 0)
        assert processes.shard(range(5)) == range(5)
        counts = np.arange(3)
        assert processes.all_sum(counts) is counts
        assert processes.broadcast(lambda: b"read") == b"read"
        assert processes.broadcast_array(lambda: counts, (3,), np.int64) is counts
