"""A small transformer on this project's own prose, from its command line."""

import contextlib
import io
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import begun
import neuron_mech
from drawn import started
from experiments.command_line import exiting
from experiments.text import command, measurement, transformer
from experiments.text.options import TextOptions
from neuron_mech import store
from neuron_mech.config import random_stream
from neuron_mech.store.checkpoints import Checkpoints
from places import ROOT

pytestmark = pytest.mark.long

SMALL = (
    *("--depth", "2", "--width", "16", "--context", "8", "--steps", "60", "--batch", "16", "--learning-rate", "0.01"),
    *("--every", "10", "--samples", "20", "--neurons", "12", "--penalty", "0.1"),
)
"""As many samples as an audit looks at together."""


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["text", *map(str, arguments)])
    exiting(command.main)


@pytest.fixture(autouse=True)
def promotion():
    """Optax's AdamW raises a float to an integer power, which the tests' strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def letters(directory: Path) -> Path:
    """The README's, in a file."""
    read = (ROOT / "README.md").read_text(encoding="utf-8")
    file = directory / "prose.txt"
    file.write_text(re.sub("[^a-z]+", " ", read.lower()))
    return file


@pytest.fixture
def prose(tmp_path):
    return letters(tmp_path)


@pytest.fixture(scope="module")
def fewer():
    """Of what is measured only some; and little to compile."""
    with pytest.MonkeyPatch.context() as patch:
        for name, few in (("EVALUATED", 600), ("FITTED", 400), ("PROBED", 300), ("CENTERS", (5, 45))):
            patch.setattr(measurement, name, few)
        begun.together(patch, transformer.Transformer)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, fewer):
    """(the directory of a run in one go, its arguments, what it said)."""
    place, said = tmp_path_factory.mktemp("whole"), io.StringIO()
    arguments = (*SMALL, "--text", letters(place))
    with (
        pytest.MonkeyPatch.context() as patch,
        jax.numpy_dtype_promotion("standard"),
        contextlib.redirect_stdout(said),
    ):
        call(patch, *arguments, "--run-dir", place / "run")
    return place / "run", arguments, said.getvalue()


def test_it_runs_from_a_text_to_figures(whole):
    directory, _, said = whole
    found = store.read_dataset(directory / "text.nc")
    assert list(found.label.values) == ["block 1", "block 2"]
    assert found.recordings == 6  # at steps 0, 10 ... 50
    assert found.neuron_constancy.sel(neuron_site="block1").size == 12
    assert found.attrs["vocabulary"] == 27
    for name, variable in found.data_vars.items():
        assert variable.attrs["description"], name
        assert "units" in variable.attrs, name
    for name in ("accuracy", "chance", "constancy", "last_constancy", "last_independent_constancy", "auc"):
        assert ((found[name] > 0) & (found[name] < 1)).all(), name
    assert ((found.window_accuracy >= 0) & (found.window_accuracy < 1)).all()
    assert (found.bits < np.log2(27)).all()  # something was learnt
    # Of the last block only the last position reaches the output; of the one before all do.
    by_position = found.position_constancy
    assert np.isfinite(by_position.sel(site="block1")).all()
    np.testing.assert_array_equal(np.isfinite(by_position.sel(site="block2")), found.before == 1)
    np.testing.assert_array_equal(found.last_constancy, by_position.sel(before=1))
    assert found.constancy.sel(site="block2") == found.last_constancy.sel(site="block2")
    for name in ("figure5", "constancy_by_position", "windows"):
        assert {(directory / "figures" / f"{name}{kind}").exists() for kind in (".png", ".svg")} == {True}
    assert "block 2" in said
    assert str(directory / "text.nc") in said


def test_stopped_it_goes_on_to_the_same_bytes(whole, tmp_path, monkeypatch, capsys):
    directory, arguments, _ = whole
    arguments = (*arguments, "--run-dir")
    monkeypatch.setattr(transformer, "SAVE_SECONDS", 0)
    save = Checkpoints.save

    def stop(self, step, state):
        save(self, step, state)
        if step == 30:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(SystemExit) as ended:
            call(patch, *arguments, tmp_path / "stopped")
    assert ended.value.code == 130
    assert not (tmp_path / "stopped" / "text.nc").exists()
    steps = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, state: steps.append(step) or save(self, step, state))
    call(monkeypatch, *arguments, tmp_path / "stopped")
    assert steps == [40, 50, 60]
    assert (directory / "text.nc").read_bytes() == (tmp_path / "stopped" / "text.nc").read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit) as refused:
        call(monkeypatch, *arguments, directory, "--seed", "1")
    assert refused.value.code == 2
    assert "holds another run (there / here): seed: 0 / 1: name another" in capsys.readouterr().err


def test_some_positions_can_be_recorded(prose, tmp_path):
    """And the last steps can be fewer than lie between two recordings."""
    options = TextOptions(prose, context=8, steps=13, batch=16, every=10, learning_rate=0.01)
    ids, vocabulary = transformer.read_text(prose, 8)
    model = transformer.Transformer(vocabulary, 2, 16)
    samples = transformer.some(ids["train"], 20, 8, random_stream(0, "some"))
    params = started(model, 0, samples[0][:1])["params"]
    recorder = neuron_mech.recorder(
        model, {"params": params}, *samples, measurement.SITES, recordings=2, positions=3, keep=2
    )
    with Checkpoints(tmp_path / "checkpoints") as saves:
        _, recorder = transformer.train(model, params, recorder, jnp.asarray(ids["train"]), options, saves)
        assert saves.latest == 13
    found = measurement.signs_of(recorder, 8)
    assert np.isfinite(found.position_constancy.sel(site="block1")).sum() == 3


def test_a_sample_is_a_context_and_what_follows(prose):
    ids, vocabulary = transformer.read_text(prose, 8)
    written = prose.read_text()
    assert len(ids["train"]) + len(ids["test"]) == len(written)
    assert len(ids["test"]) == len(written) // 10
    characters = np.array(sorted(set(written)))
    assert len(characters) == vocabulary
    context, following = transformer.samples_at(jnp.asarray(ids["train"]), jnp.array([0, 5]), 8)
    assert "".join(characters[np.asarray(context[1])]) == written[5:13]
    assert characters[int(following[1])] == written[13]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no text given"),
        (("--depth", "2"), "no text given"),
        (("--text", "{at}/none.txt"), "none.txt cannot be read (No such file"),
        (("--text", "{at}"), "cannot be read (Is a directory"),
        (("--text", "{at}/bytes.txt"), "it is not UTF-8"),
        (("--text", "{at}/short.txt"), "short.txt has 5 characters, and 1320 are needed"),
        (("--text", "{at}/prose.txt", "--run-dir", "{at}/short.txt"), "cannot be written (File exists)"),
        (("--text", "{at}/prose.txt", "--run-dir", "{at}/run", "--steps", "0"), "--steps is 0"),
        (("--text", "{at}/prose.txt", "--run-dir", "{at}/run", "--width", "30"), "--width is 30"),
    ],
)
def test_what_cannot_be_done_is_one_line(prose, tmp_path, monkeypatch, capsys, arguments, said):
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *(argument.format(at=tmp_path) for argument in arguments))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_directory_in_use_is_refused(prose, tmp_path, monkeypatch, capsys):
    with store.held(tmp_path / "run"), pytest.raises(SystemExit) as stop:
        call(monkeypatch, "--text", prose, "--run-dir", tmp_path / "run")
    assert stop.value.code == 2
    assert "is in use by another process" in capsys.readouterr().err
