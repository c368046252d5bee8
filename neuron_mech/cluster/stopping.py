"""Being asked to stop: signals, noted and left to the work under way, which saves itself first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that ask work to stop: a scheduler's, Ctrl-C, a lost terminal, and what Slurm's --signal sends before time is
up."""


@contextmanager
def stopping() -> Iterator[list[int]]:
    """The numbers of STOPPING that have come so far, collected instead of obeyed while inside."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return
    # What is ignored, as a terminal's end under nohup, stays ignored.
    heard = [s for s in STOPPING if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, lambda number, _: received.append(number)) for s in heard}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
