"""Signals that ask a run to stop: they are collected, so that the run can save itself first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that ask a run to stop: from a scheduler, Ctrl-C, a lost terminal, and those of Slurm's --signal before the
time limit."""


@contextmanager
def stopping() -> Iterator[list[int]]:
    """Collect signals of STOPPING instead of dying from them: yields the list of those received so far."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return
    # A signal that is ignored, such as SIGHUP under nohup, stays ignored.
    heard = [s for s in STOPPING if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, lambda number, _: received.append(number)) for s in heard}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
