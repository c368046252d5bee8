"""Commands in processes of their own that begin at once: forked from one that has imported all that they will.

Tests of kills, memory and several devices need separate processes, but importing the same again would be half of their
time. The process forked from has run nothing: JAX has no devices in it yet, and no threads.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from places import ROOT

IMPORTED = (
    *("experiments.reproduce", "experiments.publish.command", "neuron_mech.paper.report", "neuron_mech.paper.videos"),
    *("neuron_mech.paper.figures.categories", "neuron_mech.paper.figures.codes", "neuron_mech.paper.figures.signs"),
    *("h5netcdf.legacyapi", "imageio_ffmpeg", "jinja2", "orbax.checkpoint", "scipy.interpolate", "scipy.optimize"),
    *("scipy.stats", "sklearn.datasets", "sklearn.metrics", "typeguard", "xarray.computation.nanops"),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg"),
)


class Forked:
    """`python -m NAME ...` or `python -c PROGRAM ...`; its names are those of `subprocess.Popen`.

    What it says goes to files, so that it never waits for a reader.
    """

    def __init__(self, *arguments: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None):
        self.args = [str(argument) for argument in arguments]
        _, begun = _begun()
        changed = dict(env or {})
        if late := [name for name in changed if name.startswith("JAX_") and changed[name] != begun.get(name)]:
            raise ValueError(f"{late} are read where JAX is imported, which has been done: use subprocess")
        self._files = [_file(), _file()]
        weakref.finalize(self, _remove, self._files)
        said = [str(path) for path in self._files]
        self.returncode: int | None = None
        self.largest = 0
        """KB of memory that it took at its largest, known when it has ended."""
        self.pid = _asked({"arguments": self.args, "cwd": str(cwd), "env": begun | changed, "said": said})

    @property
    def out(self) -> str:
        """What it has said by now."""
        return self._files[0].read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._files[1].read_text(errors="replace")

    def poll(self) -> int | None:
        if self.returncode is None and (ended := _asked({"ended": self.pid})):
            self.returncode, self.largest = ended
        return self.returncode

    def until(self, reached: Callable[[], object]) -> None:
        """Wait until this is so, or the process has ended."""
        while self.poll() is None and not reached():
            time.sleep(0.01)

    def wait(self, timeout: float = 600) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return code

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        self.wait(timeout)
        return self.out, self.err

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill it where it has not ended, and wait until it has."""
        self.send_signal(signal.SIGKILL)
        self.wait()


def simulated(devices: int) -> dict[str, str]:
    """The environment of a process with so many devices: flags as these tests have, and their number."""
    return {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"}


def run(*arguments: object, timeout: float = 600, **options: Any) -> Forked:
    """A process that is waited for, and killed where that takes too long."""
    process = Forked(*arguments, **options)
    try:
        process.wait(timeout)
    finally:
        process.kill()
    return process


def _file() -> Path:
    number, path = tempfile.mkstemp()
    os.close(number)
    return Path(path)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


@cache
def _begun() -> tuple[subprocess.Popen, dict[str, str]]:
    """The process that others are forked from, begun when it is first asked, and its environment."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    asked = [sys.executable, __file__]
    process = subprocess.Popen(asked, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)  # without more lines it ends
    return process, env


def _asked(job: dict) -> Any:
    process, _ = _begun()
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


# --- The process that others are forked from --------------------------------------------------------------------------


def serve() -> None:
    """Fork, or say how a child has ended, for each line asked; a child returns from here."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        if "ended" in job:
            pid, status, used = os.wait4(job["ended"], os.WNOHANG)
            answer = [os.waitstatus_to_exitcode(status), used.ru_maxrss] if pid else None
        else:
            with warnings.catch_warnings():
                # NumPy's threads, which it begins anew in a child, are no reason to warn.
                warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
                answer = os.fork()
            if not answer:
                return become(**job)
        print(json.dumps(answer), flush=True)


def become(arguments: list[str], cwd: str, env: dict[str, str], said: list[str]) -> None:
    """Go on as Python begun with these arguments, a module's (-m) or a program's (-c)."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for place, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), place)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests in the background were told to ignore
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    kind, name, *more = arguments
    sys.argv[:] = [kind, *more]
    sys.path[0] = cwd
    if kind == "-m":
        sys.modules.pop(name, None)
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(name, "<string>", "exec"), vars(sys.modules["__main__"]))


if __name__ == "__main__":
    serve()
