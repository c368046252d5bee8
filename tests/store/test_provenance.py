"""Seconds that each step took, told apart where one step is done inside another."""

import json

import pytest

from neuron_mech.errors import InputError, Interrupted
from neuron_mech.store import provenance


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until `clock(seconds)` moves it."""
    now = [100.0]
    monkeypatch.setattr(provenance.time, "monotonic", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def test_a_step_inside_another_has_its_seconds_alone(tmp_path, clock):
    seed = tmp_path / "seed1"
    with provenance.timed(tmp_path, "quantization"):
        clock(1)
        for directory in (tmp_path, seed):
            with provenance.timed(directory, "training"):
                clock(10)
        clock(2)
    with provenance.timed(tmp_path, "quantization"):
        clock(0.5)
    assert json.loads((tmp_path / "provenance.json").read_text())["seconds"] == {"training": 10.0, "quantization": 3.5}
    found = provenance.read(tmp_path)
    assert found["seconds"] == {"training": 20.0, "quantization": 3.5}  # both seeds'
    assert {name: found[name] for name in ("device", "platform", "cores", "versions")} == provenance.machine()
    assert provenance.read(seed)["seconds"] == {"training": 10.0}


def test_what_a_signal_stops_counts_and_what_fails_does_not(tmp_path, clock):
    @provenance.timed(tmp_path, "training")
    def ends_in(error, seconds):
        clock(seconds)
        raise error

    with pytest.raises(Interrupted):
        ends_in(Interrupted(15, "stopped"), 3)
    with pytest.raises(InputError):
        ends_in(InputError("refused"), 5)
    with provenance.timed(tmp_path, "training"):
        clock(4)
    assert provenance.read(tmp_path)["seconds"] == {"training": 7.0}


def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path, clock):
    assert provenance.read(tmp_path) == {}
    (tmp_path / "provenance.json").write_text("{")
    assert provenance.read(tmp_path) == {}
    with provenance.timed(tmp_path, "train"):
        clock(1)
    assert provenance.read(tmp_path)["seconds"] == {"train": 1.0}


def test_a_plain_source_tree_has_no_version_and_stops_nothing(monkeypatch):
    def missing(name):
        raise provenance.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(provenance.importlib.metadata, "version", missing)
    assert provenance.machine()["versions"]["neuron_mech"] == "unknown"


def test_what_a_run_goes_on_on_is_held_against_what_it_began_on(tmp_path, clock, monkeypatch):
    assert provenance.others(tmp_path) == []
    with pytest.raises(KeyError), provenance.timed(tmp_path, "training"):
        raise KeyError("killed")  # nothing is counted, but the machine is known
    assert provenance.others(tmp_path) == []
    here = provenance.machine()
    there = here | {"device": "1 x NVIDIA H200", "versions": here["versions"] | {"jax": "0.0.1", "numpy": "0"}}
    monkeypatch.setattr(provenance, "machine", lambda: there)
    assert provenance.others(tmp_path) == [
        f"device: {here['device']} / 1 x NVIDIA H200",
        f"jax: {here['versions']['jax']} / 0.0.1",
    ]
