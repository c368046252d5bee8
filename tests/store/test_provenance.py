"""Seconds that each step took, told apart where one step is done inside another."""

import json
import subprocess

import pytest

from neuron_mech.errors import InputError, Interrupted
from neuron_mech.store import provenance
from places import ROOT


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


def test_each_step_keeps_the_commits_that_it_was_made_by_and_seeds_add_theirs(tmp_path, monkeypatch):
    for at, made_by in (
        (tmp_path, "a"),
        (tmp_path, "b+"),
        (tmp_path, "a"),
        (tmp_path / "seed1", "c"),
        (tmp_path, None),
    ):
        monkeypatch.setattr(provenance, "commit", lambda made_by=made_by: made_by)
        with provenance.timed(at, "training"):
            pass
    assert provenance.read(tmp_path)["commits"] == {"training": ["a", "b+", "c"]}


def test_the_commit_is_that_of_the_checkout_and_marked_where_it_was_changed(tmp_path, monkeypatch):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    git = lambda *words: subprocess.check_output(["git", *words], cwd=ROOT, text=True).strip()  # noqa: E731
    changed = git("status", "--porcelain", "neuron_mech", "experiments")
    assert provenance.commit.__wrapped__() == git("rev-parse", "HEAD") + ("+" if changed else "")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "a" / "b" / "provenance.py"))
    assert provenance.commit.__wrapped__() is None


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
