"""A run knows its config, its data and the settings that decide numbers, and goes on with no others."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import forking
import neuron_mech
import prepared
from drawn import started
from experiments import train
from neuron_mech import store
from neuron_mech.cluster import jax_settings
from neuron_mech.config import Config, Data, Model, Record, Train, Watch
from neuron_mech.errors import InputError
from neuron_mech.paper import claims
from neuron_mech.runs import loop, run, subjects
from neuron_mech.store import identity
from neuron_mech.training import fingerprints
from neuron_mech.training.datasets import Dataset, Stream
from places import ROOT

CONFIG = Config(
    "digits",
    Data("made_up"),
    Model(width=1 / 64),
    Train(batch_size=16, epochs=2),
    Record(every=2, samples=20),
    Watch(recordings=2, wide_recordings=2, samples=10, wide_samples=10),
)


def made_up(data_dir: Path, digits: Dataset, order: np.ndarray) -> Path:
    """Some of the digits as a prepared data set, its training rows in another order."""
    images = np.asarray(digits.train.images[:150]) * 15
    records = [(prepared.encoded(image), int(label)) for image, label in zip(images, digits.train.labels, strict=False)]
    return prepared.write(data_dir, {"train": [records[i] for i in order], "test": records[100:]})


@pytest.fixture(scope="module")
def data(digits, tmp_path_factory):
    """Two data directories of the same name and sizes; in the second the training rows are permuted."""
    place, rows = tmp_path_factory.mktemp("data"), np.arange(100)
    return made_up(place / "a", digits, rows), made_up(place / "b", digits, np.random.default_rng(0).permutation(rows))


def finished(config: Config, directory: Path, data_dir: Path):
    with store.opened(directory, config):
        return run(config, directory, data_dir)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A finished run on the first."""
    directory = tmp_path_factory.mktemp("run") / "run"
    finished(CONFIG, directory, data[0])
    return directory


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


# --- Data -------------------------------------------------------------------------------------------------------------


def test_other_data_of_the_same_name_and_sizes_are_refused(copy, data):
    finished(CONFIG, copy, data[0])
    with pytest.raises(InputError, match=r"other data .*training images: '?\w{12}….*name the --data-dir") as refused:
        finished(CONFIG, copy, data[1])
    assert "test images" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_labels_alone_are_seen(data, digits, tmp_path):
    images = [(prepared.encoded(np.asarray(image) * 15), i % 3) for i, image in enumerate(digits.train.images[:40])]
    other = [*images[:39], (images[39][0], 9)]
    for name, records in (("a", images), ("b", other)):
        prepared.write(tmp_path / name, {"train": records, "test": images})
    loaded = [fingerprints.of(CONFIG, loop.datasets.load(CONFIG.data, tmp_path / name)) for name in "ab"]
    (changed,) = identity.changed(*loaded)
    assert changed.startswith("training labels: ")


def test_a_stream_is_known_by_its_files(data, tmp_path):
    config = replace(CONFIG, data=replace(CONFIG.data, stream=True), model=replace(CONFIG.model, weights="random"))

    def opened(data_dir):
        with store.opened(tmp_path / "run", config):
            return subjects.subject(config, tmp_path / "run", data_dir, workers=0)

    assert isinstance(opened(data[0]).dataset.train, Stream)
    opened(data[0])
    with pytest.raises(InputError, match="training files: "):
        opened(data[1])


def test_of_large_files_parts_are_read(data, monkeypatch, digits):
    streams = [loop.datasets.load(replace(CONFIG.data, stream=True), data_dir, workers=0).train for data_dir in data]
    monkeypatch.setattr(fingerprints, "WHOLE", 0)
    one, other = (fingerprints.fingerprints(stream)["files"] for stream in streams)
    assert one != other


# --- Settings ---------------------------------------------------------------------------------------------------------


def digest(directory: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(directory.glob("*.nc"))}


def test_the_environment_decides_no_number_of_a_command(data, tmp_path):
    """Begun under other settings, and gone on with under yet others: the same bytes."""
    arguments = (
        *("digits", "--data.name", "made_up", "--data-dir", data[0], "--model.width", 1 / 64, "--record.samples", 20),
        *("--train.epochs", 2, "--watch.recordings", 2, "--watch.wide-recordings", 2),
    )
    command = ["-m", "experiments.train", *map(str, arguments), "--run-dir"]
    plain = forking.run(*command, tmp_path / "plain")
    assert plain.returncode == 0, plain.err
    for changes in (
        {"JAX_THREEFRY_PARTITIONABLE": "0", "JAX_ENABLE_X64": "1"},
        {"JAX_RANDOM_SEED_OFFSET": "7", "JAX_DEFAULT_PRNG_IMPL": "rbg"},
    ):
        done = subprocess.run(
            [sys.executable, *command, str(tmp_path / "changed")],
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | changes,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "plain") == digest(tmp_path / "changed")


@pytest.mark.parametrize(
    ("name", "value"),
    [("jax_threefry_partitionable", False), ("jax_random_seed_offset", 3), ("jax_default_prng_impl", "rbg")],
)
def test_a_program_with_other_settings_is_refused(copy, data, name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        with pytest.raises(InputError, match=rf"other settings .*{name}: {before!r} / {value!r}"):
            finished(CONFIG, copy, data[0])
    finally:
        jax.config.update(name, before)


def test_a_compiler_s_flags_are_held_against_those_it_began_with_but_for_the_number_of_devices(copy, data, monkeypatch):
    # Flags of another platform decide nothing here: an experiment that ran before may have set one.
    flags = os.environ.get("XLA_FLAGS", "").split()
    began = " ".join(flag for flag in flags if not flag.startswith("--xla_gpu"))
    monkeypatch.setenv("XLA_FLAGS", f"{began} --xla_force_host_platform_device_count=2 --xla_dump_to=/tmp")
    finished(CONFIG, copy, data[0])
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    with pytest.raises(InputError, match=f"XLA_FLAGS: '{began}' / '--xla_cpu_enable_fast_math=true'"):
        finished(CONFIG, copy, data[0])


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Dense(16)(x)))


def test_what_own_draws_does_not_depend_on_settings():
    x, y = jnp.ones((30, 5)), jnp.arange(30) % 4
    variables = started(Net(), 0, x[:1])

    def drawn():
        recorder = neuron_mech.recorder(
            Net(), variables, x, y, "Dense_0", recordings=2, samples=9, neurons=5, seed=3, audit=False
        )
        classes = recorder.update(variables).classes(4)
        return [*recorder.rows.tolist(), *recorder.design.indices("Dense_0"), *classes.permuted_wholly.values]

    expected = drawn()
    for name, value in (
        ("jax_threefry_partitionable", False),
        ("jax_random_seed_offset", 3),
        ("jax_default_prng_impl", "rbg"),
    ):
        before = getattr(jax.config, name)
        jax.config.update(name, value)
        try:
            assert drawn() == expected
            assert jax_settings.here()[name] == value  # and its caller's settings stay
        finally:
            jax.config.update(name, before)


def test_a_saved_recorder_goes_on_with_what_it_had_chosen():
    x, y = jnp.ones((30, 5)), jnp.arange(30) % 4
    variables = started(Net(), 0, x[:1])
    make = lambda **choice: neuron_mech.recorder(Net(), variables, x, y, "Dense_0", recordings=2, **choice)  # noqa: E731
    saved = make(samples=9, seed=3).update(variables).state
    assert int(make(samples=9, seed=3).restored(saved).count) == 1
    with pytest.raises(InputError, match="counted other samples, neurons or positions"):
        make(samples=9, seed=4).restored(saved)


# --- Configs ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_belongs_to_its_config(copy, data):
    other = replace(CONFIG, train=replace(CONFIG.train, seed=3))
    (copy / "config.json").unlink()
    with pytest.raises(InputError, match=r"holds a run on other data .*train.seed: 0 / 3"):
        finished(other, copy, data[0])
    (copy / "identity.json").unlink()
    with pytest.raises(InputError, match=r"checkpoint of something else .*train.seed: 0 / 3"):
        finished(other, copy, data[0])
    assert not (copy / "checkpoints-damaged").exists()
    finished(CONFIG, copy, data[0])  # nothing is left of what was refused


def test_a_checkpoint_belongs_to_its_data(copy, data):
    (copy / "identity.json").unlink()
    with pytest.raises(InputError, match=r"checkpoint of something else .*training images: "):
        finished(CONFIG, copy, data[1])


def test_a_seed_of_another_run_is_none(copy, data):
    train.report(finished(CONFIG, copy, data[0]))
    repetition = replace(CONFIG, train=replace(CONFIG.train, seed=1))
    train.report(finished(repetition, copy / "seed1", data[0]))
    assert len(claims.findings(copy).train) == 2
    shutil.rmtree(copy / "seed1")
    longer = replace(repetition, train=replace(repetition.train, epochs=3))
    train.report(finished(longer, copy / "seed1", data[0]))
    with pytest.raises(InputError, match=r"seed1 holds no repetition .*train.epochs: 3 / 2"):
        claims.findings(copy)
    shutil.rmtree(copy / "seed1")
    train.report(finished(repetition, copy / "seed1", data[1]))
    with pytest.raises(InputError, match=r"seed1 holds no repetition .*training images"):
        claims.findings(copy)
