"""Starting and ending the processes of one run: they join each other, and end together with a line that says why.

Built on JAX's own distributed runtime, which knows Slurm, Kubernetes and TPU pods. Only process 0 prints; the others
print nothing but the error that ends them.
"""

import atexit
import contextlib
import ipaddress
import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax

# The key-value store of JAX's runtime has no public name. Only it reaches a process that waits in a collective.
from jax._src.distributed import global_state as runtime

from neuron_mech.cluster import processes
from neuron_mech.errors import InputError, Interrupted, RunError, first_line

_POLL = 0.5
"""Seconds between two heartbeats, and between two checks whether another process has failed."""

_FAREWELL = 5.0
"""Seconds that process 0, which holds the key-value store, waits for the others to read why all end."""

_LATER = 60
"""Seconds that JAX's runtime waits longer than we do, since it would end a process with a page instead of a line."""

_WEEK = 7 * 24 * 3600 * 1000
"""Milliseconds that a finished process waits for the others to finish."""

_LOST = "another process was lost ({}); what was saved is intact: run the same commands again"


def place(where: str) -> tuple[str | None, int | None, int | None]:
    """(address, index, count) of `INDEX/COUNT@HOST:PORT`; None each for `auto`. Raises InputError for anything else."""
    if where == "auto":
        return None, None, None
    if not (found := re.fullmatch(r"(\d{1,6})/(\d{1,6})@(.+:\d{1,5})", where)):
        raise InputError(
            f"--distributed is {where!r}: say auto (on Slurm, Kubernetes or a TPU pod), or INDEX/COUNT@HOST:PORT, such "
            "as 0/2@node1:1234 and 1/2@node1:1234 for two processes, the first of them on node1"
        )
    index, count = int(found[1]), int(found[2])
    if index >= count:
        raise InputError(f"--distributed is {where!r}: the indices of {count} processes are 0 to {count - 1}")
    return found[3], index, count


@contextmanager
def joined(where: str | None, patience: float) -> Iterator[None]:
    """Join a run of several processes at the `place` that `where` names; with None this is the only process.

    Enter it before anything is computed. All processes end together: an error that leaves this block in one process
    ends the others too, with a line that says so. So does a process that does not join, or sends no heartbeat, for
    `patience` seconds. Raises RunError where another process is lost.
    """
    if where is None:
        yield
        return
    _initialize(where, patience)
    watch = _Watch(patience)
    watch.start()
    try:
        with contextlib.nullcontext() if processes.first() else _silent():
            _check_devices()
            yield
    except Interrupted:  # all processes stop at the same moment (`runs.loop`)
        _finish(watch)
        raise
    except (InputError, RunError) as error:
        _fail(error.exit_code, str(error))
        raise
    except jax.errors.JaxRuntimeError as error:
        # A collective raises this in the surviving processes, or hangs: then the watch ends them.
        if "gloo" not in str(error).lower():
            _fail(1, first_line(error))
            raise
        lost = RunError(_LOST.format(first_line(error)))
        _fail(lost.exit_code, str(lost))
        raise lost from error
    except BaseException as error:
        _fail(130 if isinstance(error, KeyboardInterrupt) else 1, first_line(error))
        raise
    _finish(watch)


def _initialize(where: str, patience: float) -> None:
    address, index, count = place(where)

    def give_up() -> None:
        said = f"error: --distributed {where}: not all processes came within {patience:g} seconds (--patience)"
        print(said, file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(patience, give_up)
    timer.daemon = True
    timer.start()
    # `runs.loop` handles SIGTERM itself: it saves, and tells the other processes.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            cluster_detection_method=None if address is None else "deactivate",
            coordinator_bind_address=_bound(address),
            initialization_timeout=int(patience) + _LATER,
            heartbeat_timeout_seconds=int(patience) + _LATER,
        )
    except ValueError:
        raise InputError(
            "--distributed is auto, but nothing says which process of how many this is: start it by srun, on "
            "Kubernetes or on a TPU pod, or say INDEX/COUNT@HOST:PORT"
        ) from None
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"--distributed {where}: {first_line(error)}: is the port free? Name another, the same for all processes"
        ) from None
    finally:
        timer.cancel()


def _bound(address: str | None) -> str | None:
    """The interface on which process 0 listens: only the given address, where that is an IP address or localhost.

    A host name may mean another address on process 0's own machine, so for a name, as for None, it listens on all
    interfaces. There is no authentication: make sure that only machines you trust can reach it.
    """
    host = (address or "").rpartition(":")[0]
    with contextlib.suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host.strip("[]")):
            return address
    return None


def _check_devices() -> None:
    here = jax.local_device_count()
    if jax.device_count() != here * jax.process_count():
        raise InputError(
            f"this process has {here} of {jax.device_count()} devices, which are to be dealt evenly among "
            f"{jax.process_count()} processes: give each as many"
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Discard prints, progress bars and warnings, which process 0 shows already; errors are printed outside."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


class _Watch(threading.Thread):
    """A thread that ends this process when another one has failed, even while the main thread waits in a collective.

    Each process counts up a heartbeat in the key-value store, and process 0 looks for one that has stopped.
    """

    def __init__(self, patience: float):
        super().__init__(daemon=True)
        self.patience, self.finished = patience, threading.Event()
        self._heard: dict[str, tuple[str, float]] = {}
        """By process, its last heartbeat and when that was new."""

    def run(self) -> None:
        """Check every `_POLL` seconds until all have finished."""
        for sign in itertools.count():
            if self.finished.wait(_POLL):
                return
            try:
                self._look(sign)
            except jax.errors.JaxRuntimeError:
                if not self.finished.is_set():
                    _end(1, f"error: {_LOST.format('process 0 does not answer')}")

    def _look(self, sign: int) -> None:
        store, here = _store(), runtime.process_id
        store.key_value_set(f"alive/{here}", str(sign), allow_overwrite=True)
        if here == 0:
            now, signs = time.monotonic(), dict(store.key_value_dir_get("alive"))
            self._heard |= {name: (at, now) for name, at in signs.items() if self._heard.get(name, ("",))[0] != at}
            silent = [name.rpartition("/")[2] for name, (_, when) in self._heard.items() if now - when > self.patience]
            line = _LOST.format(f"process {', '.join(silent)} has not been heard of for {self.patience:g} seconds")
            if silent and _post(1, line):
                _end(1, f"error: {line}")
        # There is an entry only where a process has failed.
        for _, failed in store.key_value_dir_get("failed"):
            index, code, line = json.loads(failed)
            if index != here:
                _end(code, f"stopped with process {index} of {runtime.num_processes}: {line}")


def _store() -> Any:
    """The key-value store, which process 0 holds for all."""
    assert runtime.client is not None
    return runtime.client


def _post(code: int, line: str) -> bool:
    """Tell the other processes that this one ends, and why. False where another process did so before."""
    try:
        _store().key_value_set("failed/first", json.dumps([runtime.process_id, code, line]))
    except jax.errors.JaxRuntimeError as error:
        return "ALREADY_EXISTS" not in str(error)
    return True


def _fail(code: int, line: str) -> None:
    """Tell the other processes that this one ends, and why; where another did so before, end for its reason."""
    if not _post(code, line):
        time.sleep(_FAREWELL)  # meanwhile the watch ends this process
    # At exit before JAX's own shutdown, which would wait for all processes.
    atexit.register(_leave, code)


def _leave(code: int) -> NoReturn:
    """End this process at once; process 0, which holds the store, after the others have read the reason."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _store().key_value_set(f"left/{runtime.process_id}", "")
        deadline = time.monotonic() + _FAREWELL
        for other in range(1, runtime.num_processes) if runtime.process_id == 0 else ():
            left = max(1, int(1000 * (deadline - time.monotonic())))
            _store().blocking_key_value_get(f"left/{other}", left)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end(code: int, line: str) -> NoReturn:
    """Print a line and end this process from the watch's thread."""
    print(line, file=sys.__stderr__, flush=True)
    _leave(code)


def _finish(watch: _Watch) -> None:
    """Wait until all processes have finished (process 0 may still draw figures), then shut the runtime down."""
    _store().wait_at_barrier("finished", _WEEK)
    watch.finished.set()
    jax.distributed.shutdown()
