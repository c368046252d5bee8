"""Steps of commands under time limits, and what they leave in the directory that is brought home."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from experiments.full_scale.sharing import shared
from neuron_mech.cluster import memory

State = Literal["done", "stopped", "failed"]


@dataclass(frozen=True)
class Command:
    """A command line, run as a process of its own."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside this process's."""
    stop_at: Path | None = None
    """It is to be stopped by SIGTERM as soon as this path is there."""
    then: tuple[str, ...] = ()
    """A command that brings home what it left, run when it has ended, however that was."""


@dataclass(frozen=True)
class Step:
    """Commands, one after another or at once, and their time."""

    seconds: float
    commands: tuple[Command, ...]
    at_once: bool = False
    """At once where a GPU can be shared (`sharing`)."""
    scratch: Path | None = None
    """Directory that it begins without: of no use to a second try."""


@dataclass
class Runner:
    """Does steps and says in a line what became of each."""

    out: Path
    """Where logs and results are brought to."""
    until: float
    """When all ends, by time.monotonic()."""
    received: list[int]
    """Signals that ask this process to stop, as they come."""
    grace: float = 60.0
    """Seconds from SIGTERM to SIGKILL: runs save and export themselves meanwhile."""

    def __call__(self, name: str, step: Step) -> State:
        """Do a step, unless it is done, in its share of the time that is left."""
        marker = self.out / f"{name}.done"
        if marker.exists():
            before = marker.read_text(encoding="utf-8").strip()
            self._say(f"{before} (before)")
            return "done"
        if self._over(self.until):
            self._say(f"{name:8} stopped: no time is left for it")
            return "stopped"
        began, there = time.monotonic(), _files(self.out)
        self._say(f"{name:8} begins")
        states = list(self._states(name, step, min(self.until, began + step.seconds)))
        state: State = "failed" if "failed" in states else "stopped" if "stopped" in states else "done"
        counts = ", ".join(f"{count} {what}" for what, count in Counter(states).items())
        new = [path for path, stamp in _files(self.out).items() if there.get(path) != stamp]
        home = f"{len(new)} files, {memory.size(sum(path.stat().st_size for path in new))}"
        line = f"{name:8} {state:8} {time.monotonic() - began:5.0f} s; commands: {counts}; home: {home}"
        self._say(line)
        if state == "done":
            marker.write_text(line + "\n", encoding="utf-8")
        return state

    def _states(self, name: str, step: Step, until: float) -> Iterator[State]:
        """What becomes of each command."""
        if step.scratch:
            shutil.rmtree(step.scratch, ignore_errors=True)
        with ExitStack() as stack:
            environment = stack.enter_context(shared()) if step.at_once else {}
            rounds = [step.commands] if environment else [(command,) for command in step.commands]
            for commands in rounds:
                if self._over(until):
                    for _ in commands:
                        yield "stopped"
                    continue
                logs = [
                    self.out / (f"{name}-{k}.log" if len(commands) > 1 else f"{name}.log") for k in range(len(commands))
                ]
                ended = self._run(commands, logs, environment, until, self.received)
                for command, log, (state, code, seconds) in zip(commands, logs, ended, strict=True):
                    if command.then:
                        soon = time.monotonic() + self.grace
                        ((after, *_),) = self._run([Command(command.then)], [log], {}, soon, [])
                        state = "failed" if state == "done" and after != "done" else state
                    said = _last_line(log)
                    self._say(f"{'':8} {state}, exit {code}, {seconds:.0f} s: {_short(command)}: {said}")
                    yield state

    def _run(
        self,
        commands: Sequence[Command],
        logs: Sequence[Path],
        environment: Mapping[str, str],
        until: float,
        received: Sequence[int],
    ) -> list[tuple[State, int, float]]:
        """Run commands at once; (what became of it, exit code, seconds) of each."""
        began = time.monotonic()
        children = [_start(command, log, environment) for command, log in zip(commands, logs, strict=True)]
        asked: dict[int, float] = {}
        took = [0.0] * len(children)
        while alive := [k for k, child in enumerate(children) if child.poll() is None]:
            now = time.monotonic()
            for k in alive:
                took[k] = now - began
                if k in asked:
                    if now > asked[k] + self.grace:
                        os.killpg(children[k].pid, signal.SIGKILL)
                elif now > until or received or ((at := commands[k].stop_at) and at.exists()):
                    asked[k] = now
                    children[k].terminate()
            time.sleep(0.02)
        found = []
        for k, (command, child) in enumerate(zip(commands, children, strict=True)):
            wanted = 0 if command.stop_at is None else 128 + signal.SIGTERM
            state: State = "done" if child.returncode == wanted else "stopped" if k in asked else "failed"
            found.append((state, child.returncode, took[k]))
        return found

    def _over(self, until: float) -> bool:
        return bool(self.received) or time.monotonic() > until

    def _say(self, line: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {line}"
        print(line, flush=True)
        with (self.out / "full_scale.log").open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def _start(command: Command, log: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    with log.open("a", encoding="utf-8") as sink:
        sink.write(f"\n$ {shlex.join(command.arguments)}\n")
        sink.flush()
        return subprocess.Popen(
            command.arguments,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            # A log of seldom progress, whole up to where a process was killed.
            env={**os.environ, "TQDM_MININTERVAL": "10", "PYTHONUNBUFFERED": "1", **environment, **command.environment},
            process_group=0,  # with all that it starts
        )


def _short(command: Command) -> str:
    """The experiment and what it is of."""
    arguments = [part.removeprefix("experiments.") for part in command.arguments if part not in (sys.executable, "-m")]
    return " ".join(arguments[:2])


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith("$ ")), "")[:200]


def _files(directory: Path) -> dict[Path, tuple[int, int]]:
    """Files by size and time: what was written since differs."""
    found = {path: path.stat() for path in directory.iterdir() if path.is_file() and not path.name.startswith(".")}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items() if path.name != "full_scale.log"}
