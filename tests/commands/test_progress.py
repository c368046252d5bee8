"""What is being done, which of how many, and how long it will take."""

import json
import sys

import pytest

from experiments import composites
from experiments.command_line import progress
from neuron_mech.errors import InputError

STEPS = [("gradient_signs", "seed 0"), ("learning_dynamics", "seed 0"), ("binarization", "")]


def test_time_left_is_what_it_took_elsewhere_times_how_fast_this_machine_is(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    overall = progress.Overall(STEPS, {"gradient_signs": 20.0, "learning_dynamics": 40.0, "binarization": 100.0})
    assert overall.left() == 160.0
    with overall.step() as words:
        assert words == "[1 of 3] about 3 min left in all: "
        now[0] = 10.0  # twice as fast as there
    assert overall.left() == 70.0
    with overall.step() as words:
        assert words == "[2 of 3] about 70 s left in all: "
        now[0] = 70.0  # 70 s for what took 60 there
    assert overall.left() == pytest.approx(100 * 70 / 60)
    with overall.step():
        pass
    assert overall.left() is None
    with overall.step() as words:
        assert words == ""


def test_what_is_not_known_is_not_said():
    overall = progress.Overall(STEPS, {"gradient_signs": 20.0})
    assert overall.left() is None
    with overall.step() as words:
        assert words == "[1 of 3] "
    lines = overall.table().splitlines()
    assert len(lines) == 3
    assert "gradient_signs" in lines[0]
    assert lines[0].endswith("about 20 s")
    assert "in all" not in overall.table()
    assert max(map(len, lines)) < 100
    assert progress.Overall([], {}).table() == ""


def test_a_published_run_says_what_a_seed_took(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "PUBLISHED", tmp_path)
    (tmp_path / "digits").mkdir()
    seconds = {"training": 50.0, "gradient_signs": 10.0, "binarization": 200.0}
    (tmp_path / "digits" / "run.json").write_text(json.dumps({"seeds": [0, 1], "seconds": seconds}))
    assert progress.expected("digits") == {"training": 25.0, "gradient_signs": 30.0, "binarization": 100.0}
    assert progress.expected("mnist-relu") == {}
    (tmp_path / "digits" / "run.json").write_text("{")
    assert progress.expected("digits") == {}


@pytest.mark.parametrize(
    ("seconds", "said"), [(1, "5 s"), (62, "60 s"), (89, "90 s"), (200, "3 min"), (8000, "2 h 13 min")]
)
def test_times_are_said_as_people_do(seconds, said):
    assert progress.spoken(seconds) == said


def test_several_networks_are_put_into_one_figure(reproduced, tmp_path, capsys):
    written = composites.composites([reproduced, reproduced], tmp_path)
    assert {path.name for path in written} == {
        f"composite_figure{number}{suffix}" for number in (1, 3, 4, 5) for suffix in (".png", ".svg", ".pdf")
    }
    assert all(path.stat().st_size > 5000 for path in written)
    assert capsys.readouterr().err == ""


def test_runs_without_results_are_one_line(reproduced, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text((reproduced / "config.json").read_text())
    with pytest.raises(InputError, match="no run has a result file to draw"):
        composites.composites([tmp_path], tmp_path / "into")
    monkeypatch.setattr(sys, "argv", ["composites", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as stop:
        composites.main()
    assert stop.value.code == 2
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1]
