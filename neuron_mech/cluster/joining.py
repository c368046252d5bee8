"""How the processes of one run come together, and how they end: all of them, each with a line that says why.

On JAX's own distributed runtime, which finds out about Slurm, Kubernetes and TPU pods. Process 0 speaks for all; the
others say nothing but what ends them.
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

# The key-value store of JAX's runtime has no public name. It alone reaches a process that waits in a collective.
from jax._src.distributed import global_state as runtime

from neuron_mech.cluster import processes
from neuron_mech.errors import InputError, Interrupted, RunError, first_line

_POLL = 0.5
"""Seconds between signs of life, and looks at whether another process has failed."""

_FAREWELL = 5.0
"""Seconds that process 0, which holds the key-value store, stays for the others to read why all end."""

_LATER = 60
"""Seconds more that JAX's runtime waits than we do: it ends a process with a page instead of a line."""

_WEEK = 7 * 24 * 3600 * 1000
"""Milliseconds that who is done waits for who is not."""

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
    """Take part in a run of several processes, as `place` says; None: be the only one.

    To be entered before anything is computed. All processes end together: an error that leaves this block in one of
    them ends the others too, with a line that says so, and so does one that does not come, or is not heard of, for
    `patience` seconds. Raises RunError where one is lost.
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
    except Interrupted:  # by all of them, at the same moment
        _finish(watch)
        raise
    except (InputError, RunError) as error:
        _fail(error.exit_code, str(error))
        raise
    except jax.errors.JaxRuntimeError as error:
        # What a collective raises in the processes that are left, or does not: then the watch ends them.
        if "gloo" not in str(error).lower():
            _fail(1, _line(error))
            raise
        lost = RunError(_LOST.format(_line(error)))
        _fail(lost.exit_code, str(lost))
        raise lost from error
    except BaseException as error:
        _fail(130 if isinstance(error, KeyboardInterrupt) else 1, _line(error))
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
    # SIGTERM is `runs`' own: it saves, and tells the others.
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
            f"--distributed {where}: {_line(error)}: is the port free? Name another, the same for all processes"
        ) from None
    finally:
        timer.cancel()


def _bound(address: str | None) -> str | None:
    """Where process 0 listens: at the address alone that the others are told, where that is a number or loopback.

    A name may stand for another address here than elsewhere; then, as for None, it listens on all interfaces. Nobody
    has to prove who he is: see that only those you trust can reach it.
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
    """Without prints, bars and warnings: process 0 says it all. Errors are said outside."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


class _Watch(threading.Thread):
    """Ends this process with another that has failed, whatever the main thread is waiting for, until all have finished.

    Each process counts up a sign of life, and process 0 looks for one that has stopped.
    """

    def __init__(self, patience: float):
        super().__init__(daemon=True)
        self.patience, self.finished = patience, threading.Event()
        self._heard: dict[str, tuple[str, float]] = {}
        """By process, its last sign of life and when it was new."""

    def run(self) -> None:
        """Look every `_POLL` seconds."""
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
        # Empty but where one has failed.
        for _, failed in store.key_value_dir_get("failed"):
            index, code, line = json.loads(failed)
            if index != here:
                _end(code, f"stopped with process {index} of {runtime.num_processes}: {line}")


def _store() -> Any:
    """The key-value store that process 0 holds for all."""
    assert runtime.client is not None
    return runtime.client


def _post(code: int, line: str) -> bool:
    """Tell the others that this process ends, and why. False where another was faster."""
    try:
        _store().key_value_set("failed/first", json.dumps([runtime.process_id, code, line]))
    except jax.errors.JaxRuntimeError as error:
        return "ALREADY_EXISTS" not in str(error)
    return True


def _fail(code: int, line: str) -> None:
    """Tell the others that this process ends, and why; then it may end. Where one was faster, end with that one."""
    if not _post(code, line):
        time.sleep(_FAREWELL)  # for the watch to end this process
    # Before JAX's own farewell, which would wait for all.
    atexit.register(_leave, code)


def _leave(code: int) -> NoReturn:
    """End this process at once; process 0, which holds the store, when the others have read why."""
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
    """End from another thread, while the main one waits."""
    print(line, file=sys.__stderr__, flush=True)
    _leave(code)


def _finish(watch: _Watch) -> None:
    """Wait for all to be done, however long one of them writes and draws, and leave the runtime together."""
    _store().wait_at_barrier("finished", _WEEK)
    watch.finished.set()
    jax.distributed.shutdown()


def _line(error: BaseException) -> str:
    return first_line(error)
