"""A live view of a recording: losses, constancy and average signs so far, in TensorBoard while training goes on.

Event files are read by TensorBoard (`tensorboard --logdir DIR`), and by Weights & Biases where `wandb.init` was called
with `sync_tensorboard=True`. It needs the extra `live`, which is tensorboardX: no TensorFlow.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from neuron_mech.cluster import processes
from neuron_mech.errors import InputError
from neuron_mech.recording import counting
from neuron_mech.recording.reading import Counted


class LiveView:
    """Writes the current state of a recording to a directory each time it is called. Only process 0 writes.

    Arguments:
        directory: the directory of the event files, created if needed.
        step: the first step to be written; at 0, what is there already stays. TensorBoard leaves out this and later
            steps that an earlier view wrote, before it was killed.

    Raises InputError where tensorboardX is not installed. In a `with` it is closed at the end, after an error too.

    Example, in a loop of one's own:

    ```python
    with neuron_mech.LiveView("runs/live") as live:
        for step in range(1000):
            if step % 10 == 0:
                recorder = recorder.update({"params": state.params})
            state, loss = train_step(state, batch(step))
            if step % 100 == 0:
                live(step, recorder, loss=loss)
    ```
    """

    def __init__(self, directory: str | Path, step: int = 0):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError("a live view needs tensorboardX: pip install 'neuron_mech[live]'") from None
        self._writer = SummaryWriter(str(directory), purge_step=step or None) if processes.first() else None

    def __call__(self, step: int, recorder: Counted | None = None, **scalars: Any) -> None:
        """Write `scalars` by name, and for each site the constancy so far and the histogram of average signs.

        Counting waits for the device and reads all counts, so call it every few recordings, not at every step.

        Arguments:
            step: the position on TensorBoard's axis.
            recorder: a `Recorder`, or an `Online` after `end_epoch`; without one only scalars are written. In a run of
                several processes, all of them call this.
            **scalars: numbers, or arrays of one number each, by the name under which they are shown.
        """
        tallies = recorder.counts() if recorder is not None else {}  # of all processes together
        if self._writer is None:
            return
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)
        for site, tally in tallies.items():
            counts = np.asarray(jax.jit(counting.histograms)(tally.positive, tally.negative)).sum(0)
            constant = counting.constancy(*jax.jit(counting.constant_counts)(tally.positive, tally.negative))
            self._writer.add_scalar(f"constancy/{site}", constant, step)
            middle = (counting.BIN_EDGES[:-1] + counting.BIN_EDGES[1:]) / 2
            self._writer.add_histogram_raw(
                f"average_sign/{site}",
                min=-1.0,
                max=1.0,
                num=int(counts.sum()),
                sum=float(counts @ middle),
                sum_squares=float(counts @ middle**2),
                bucket_limits=counting.BIN_EDGES[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=step,
            )
        self._writer.flush()

    def close(self) -> None:
        """End the event file. What was written so far can be read before that too."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
