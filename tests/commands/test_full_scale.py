"""Steps under time limits: stopped so that they save themselves, brought home, and not done twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import same_bits
from experiments.full_scale import command, sharing, steps
from experiments.full_scale.runner import Command, Runner, Step
from neuron_mech.errors import InputError
from neuron_mech.store import parameters
from places import ROOT
from understanding import understand

SAVES = """
import signal, sys, time
def stopped(*_):
    open(sys.argv[1], "w").write("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, stopped)
open(sys.argv[1] + ".begun", "w").close()
print("at work", flush=True)
time.sleep(60)
"""
"""A run: stopped, it saves itself."""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"


def python(code, *arguments, **how):
    return Command((sys.executable, "-c", code, *map(str, arguments)), **how)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def runner(out, minutes=1.0, grace=20.0):
    return Runner(out, time.monotonic() + 60 * minutes, [], grace)


def summary(out) -> str:
    return (out / "full_scale.log").read_text()


@pytest.mark.parametrize("rehearse", [True, False])
def test_every_command_of_the_table_is_understood(tmp_path, rehearse):
    table = steps.Table(tmp_path / "out", tmp_path / "runs", Path("data"), rehearse)
    assert tuple(table.steps()) == steps.NAMES
    lines = [line for step in table.steps().values() for one in step.commands for line in (one.arguments, one.then)]
    calls = [line for line in lines if line and line[0] != "cp"]
    assert len(calls) > 20
    for line in calls:
        assert line[:2] == (sys.executable, "-m")
        understand(line[2].removeprefix("experiments."), list(line[3:]))


def test_networks_that_came_home_are_unpacked_on_another_machine(tmp_path):
    table = steps.Table(tmp_path, tmp_path / "runs", None, False)
    assert table.unpacked() == ()
    (tmp_path / "cifar10-relu.zip").touch()
    (one,) = table.unpacked()
    understand("export", list(one.arguments[3:]))
    assert table.steps()["windows"].commands[0] == one
    (tmp_path / "runs" / "cifar10-relu").mkdir(parents=True)
    assert table.unpacked() == ()


def test_what_is_done_is_brought_home_said_and_not_done_again(out, tmp_path):
    writes = python("import sys; open(sys.argv[1], 'a').write('x' * 1000)", out / "found.zip")
    assert runner(out)("speed", Step(30, (writes, writes))) == "done"
    assert "speed    done" in summary(out)
    assert "commands: 2 done; home: 2 files" in summary(out)
    assert runner(out)("speed", Step(30, (writes,))) == "done"
    assert "(before)" in summary(out)
    assert (out / "found.zip").stat().st_size == 2000


def test_at_its_limit_a_step_is_asked_to_stop_and_then_brought_home(out, tmp_path):
    """The next command is not begun; given again, all of it goes on."""
    saved = tmp_path / "saved"
    then = ("cp", str(saved), str(out / "saved"))
    first = python(SAVES, saved, then=then)
    never = python("import sys; open(sys.argv[1], 'w')", tmp_path / "never")
    assert runner(out)("mnist", Step(2, (first, never))) == "stopped"
    assert (out / "saved").read_text() == "saved"
    assert not (tmp_path / "never").exists()
    assert "mnist    stopped" in summary(out)
    assert "commands: 2 stopped; home: 2 files" in summary(out)
    assert "at work" in (out / "mnist.log").read_text()
    assert runner(out)("mnist", Step(20, (never,))) == "done"
    assert (tmp_path / "never").exists()


def test_what_does_not_end_when_asked_is_killed(out):
    began = time.monotonic()
    assert runner(out, grace=0.5)("check", Step(1, (python(STUBBORN),))) == "stopped"
    assert time.monotonic() - began < 20
    assert f"exit {-signal.SIGKILL}" in summary(out)


def test_a_failure_is_said_with_its_last_line_and_the_others_go_on(out):
    fails = python("import sys; sys.exit('error: no such thing')")
    assert runner(out)("check", Step(30, (fails, python("print('fine')")))) == "failed"
    assert "error: no such thing" in summary(out)
    assert "commands: 1 failed, 1 done" in summary(out)
    assert not (out / "check.done").exists()
    lost = python("print('fine')", then=("cp", str(out / "none"), str(out / "there")))
    assert runner(out)("check", Step(30, (lost,))) == "failed"


def test_a_command_is_stopped_midway_and_one_that_was_not_is_said(out, tmp_path):
    begun = tmp_path / "saved.begun"
    assert runner(out)("check", Step(30, (python(SAVES, tmp_path / "saved", stop_at=begun),))) == "done"
    assert (tmp_path / "saved").read_text() == "saved"
    assert runner(out)("speed", Step(30, (python("", stop_at=tmp_path / "none"),))) == "failed"


def test_without_time_nothing_begins(out):
    assert runner(out, minutes=0)("check", Step(30, (python("print(1)"),))) == "stopped"
    assert not (out / "check.log").exists()


FAKE = """#!/bin/sh
echo "$@" $(cat) >> {log}
echo "$CUDA_MPS_PIPE_DIRECTORY" >> {log}
"""


@pytest.mark.parametrize("works", [True, False])
def test_two_at_once_where_a_gpu_can_be_shared(out, tmp_path, monkeypatch, works):
    """Each waits for the other: one after the other, they would not end."""
    meets = """
import os, pathlib, sys, time
mine, other = map(pathlib.Path, sys.argv[1:])
mine.touch()
print(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION"), flush=True)
until = time.monotonic() + 20
while not other.exists() and time.monotonic() < until:
    time.sleep(0.01)
sys.exit(not other.exists())
"""
    control = tmp_path / "bin" / sharing.CONTROL
    control.parent.mkdir()
    control.write_text(FAKE.format(log=tmp_path / "said"))
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{control.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sharing, "PRODUCT", "" if works else "raise SystemExit(1)")
    a, b = tmp_path / "a", tmp_path / "b"
    if works:
        assert runner(out)("cifar10", Step(30, (python(meets, a, b), python(meets, b, a)), at_once=True)) == "done"
        assert all("0.45" in (out / f"cifar10-{k}.log").read_text() for k in (0, 1))
    else:
        first, second = python("import sys; open(sys.argv[1], 'w')", a), python(meets, b, a)
        assert runner(out)("cifar10", Step(30, (first, second), at_once=True)) == "done"
        assert "None" in (out / "cifar10.log").read_text()
    said = (tmp_path / "said").read_text().splitlines()
    assert (said[0].strip(), said[2].strip()) == ("-d", "quit")
    assert said[1] == said[3] != ""


def test_stopped_by_a_signal_it_stops_its_children_and_brings_home(tmp_path):
    """As a machine does that is taken away; the step after is not begun."""
    script = f"""
import sys
from pathlib import Path
from experiments.command_line import exiting
from experiments.full_scale import command, steps
from experiments.full_scale.runner import Command, Step
saved = "{tmp_path}/saved"
saves = Command((sys.executable, "-c", {SAVES!r}, saved), then=("cp", saved, "{tmp_path}/out"))
steps.Table.steps = lambda self: {{"check": Step(60, (saves,)), "speed": Step(60, (saves,))}}
exiting(command.main)
"""
    arguments = [sys.executable, "-c", script, str(tmp_path / "out"), "--run-dir", str(tmp_path / "runs")]
    child = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "saved.begun").exists() and time.monotonic() < until:
        time.sleep(0.05)
    child.terminate()
    assert "the same command goes on from there" in child.communicate(timeout=60)[1]
    assert child.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "out" / "saved").read_text() == "saved"
    said = summary(tmp_path / "out")
    assert "check    stopped" in said
    assert "speed    stopped: no time is left" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rehearse"], "no directory given"),
        (["out", "--minutes", "0"], "--minutes is 0.0: give a positive number"),
        (["out", "--steps", "cifar"], "invalid choice 'cifar'"),
    ],
)
def test_bad_requests_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        command.parse(arguments)


def test_bits_of_runs_are_compared(reproduced, tmp_path):
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    found = parameters.newest(reproduced)
    changed = {**found.variables, "params": {**found.variables["params"]}}
    name = next(iter(changed["params"]))
    changed["params"][name] = {**changed["params"][name], "bias": changed["params"][name]["bias"] + 0.5}
    for directory, one in ((first, found), (second, found), (third, found._replace(variables=changed))):
        directory.mkdir()
        (directory / "config.json").write_bytes((reproduced / "config.json").read_bytes())
        (directory / parameters.FILE).write_bytes(parameters.to_bytes(one))
    *digests, verdict = same_bits.lines([first, second, third])
    assert [line.split()[0] for line in digests[:2]] == [digests[0].split()[0]] * 2
    assert digests[2].split()[0] != digests[0].split()[0]
    assert verdict == "beside first: second equal in every bit, third unequal in 1 of 6 arrays, by 0.5 at most"
    (third / parameters.FILE).write_bytes(parameters.to_bytes(found._replace(step=7)))
    assert "third stands at step 7 and not 135" in same_bits.lines([first, third])[-1]
    (third / "config.json").unlink()
    with pytest.raises(InputError, match="third"):
        same_bits.lines([first, third])


def test_what_compares_bits_says_how_it_is_called(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["same_bits", "--help"])
    same_bits.main()
    assert "python -m experiments.same_bits RUN_DIR RUN_DIR" in capsys.readouterr().out
