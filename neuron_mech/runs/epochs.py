"""The order of an epoch: its batches, cut into segments, and where the recorded samples come in it."""

from dataclasses import dataclass

import numpy as np
from flax import struct
from jaxtyping import Array, Int

from neuron_mech import training
from neuron_mech.recording import counting
from neuron_mech.runs.study import Counts, Study


class Steps(struct.PyTreeNode):
    """Training steps of equal batch size: sample ids, and by site how many recorded samples the epoch saw before each.

    Within a batch a site's recorded samples come first: the epoch's signs from row `offsets[site]` on are theirs.
    """

    ids: Int[Array | np.ndarray, "*steps batch"]
    offsets: dict[str, Int[Array | np.ndarray | np.integer, "*steps"]]


@dataclass(frozen=True)
class Epoch:
    """One epoch's segments, each full batches and perhaps the last, smaller one.

    Of the samples that a site records, in the order of this epoch, `positions[site][r]` is the place of its tally's
    row r.
    """

    segments: list[tuple[Steps, Steps | None]]
    positions: dict[str, Int[np.ndarray, " rows"]]


def plan_epoch(study: Study, epoch: int) -> Epoch:
    """The epoch's batches, cut into segments. On the host: a permutation and a few sums."""
    size, every = study.config.train.batch_size, study.config.record.every
    row_of = np.full(study.samples, study.samples, np.int32)
    row_of[study.recorded] = np.arange(len(study.recorded), dtype=np.int32)
    order = training.epoch_order(study.config, study.samples, epoch)
    # Within each batch, samples that more sites record come first: at every site, the signs of its own are neighbours.
    edges = sorted({study.rows(site) for site in study.sites} or {len(study.recorded)})
    batch_of = np.arange(study.samples) // size
    order = order[np.lexsort((np.searchsorted(edges, row_of[order], side="right"), batch_of))]
    offsets, positions = {}, {}
    for site in study.sites:
        seen = row_of[order] < study.rows(site)
        counts = np.bincount(batch_of, weights=seen, minlength=study.batches).astype(np.int32)
        offsets[site] = (np.cumsum(counts) - counts).astype(np.int32)
        positions[site] = np.argsort(row_of[order][seen]).astype(np.int32)

    def steps(start: int, stop: int) -> Steps:
        ids = order[start * size : stop * size].reshape(stop - start, -1 if stop > start else size)
        return Steps(ids, {site: at[start:stop] for site, at in offsets.items()})

    full = study.samples // size
    segments = []
    for start in range(0, study.batches, every):
        stop = min(start + every, study.batches)
        rest = steps(full, stop) if stop > full else None
        segments.append((steps(start, min(stop, full)), rest))
    return Epoch(segments, positions)


def end_epoch(counts: Counts, positions: dict[str, Int[Array | np.ndarray, " rows"]]) -> Counts:
    """The counts after an epoch: in mode online, its signs are taken over into the tallies. Pure; jit it."""
    return counts.replace(
        tallies={
            o: {
                site: counting.update(tally, counts.epoch_signs[site][positions[site]])
                if site in counts.epoch_signs
                else tally
                for site, tally in tallies.items()
            }
            for o, tallies in counts.tallies.items()
        }
    )
