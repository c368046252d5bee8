"""The order of an epoch: its batches, cut into segments."""

import numpy as np
from jaxtyping import Int

from neuron_mech import training
from neuron_mech.runs.study import Study

Segment = tuple[Int[np.ndarray, "steps batch"], Int[np.ndarray, "last smaller"] | None]
"""(sample ids of each full batch, sample ids of the epoch's last, smaller batch or None where it is not here)."""


def plan_epoch(study: Study, epoch: int) -> list[Segment]:
    """The epoch's batches, cut into segments. On the host.

    Batches are those of a random permutation of the samples. Within a batch, samples that more sites record come first.
    That order decides which sample gets which dropout mask: changing it would change the results of a seed.
    """
    size, every = study.config.train.batch_size, study.config.record.every
    row_of = np.full(study.samples, study.samples, np.int32)
    row_of[study.recorded] = np.arange(len(study.recorded), dtype=np.int32)
    order = training.epoch_order(study.config, study.samples, epoch)
    edges = sorted(set(study.design.rows.values()) or {len(study.recorded)})
    batch_of = np.arange(study.samples) // size
    order = order[np.lexsort((np.searchsorted(edges, row_of[order], side="right"), batch_of))]
    full = study.samples // size

    def ids(start: int, stop: int) -> Int[np.ndarray, "steps batch"]:
        return order[start * size : stop * size].reshape(stop - start, -1 if stop > start else size)

    segments: list[Segment] = []
    for start in range(0, study.batches, every):
        stop = min(start + every, study.batches)
        segments.append((ids(start, min(stop, full)), ids(full, stop) if stop > full else None))
    return segments
