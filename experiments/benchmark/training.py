"""Whole segments and epochs: training with recordings, with the step's own gradients, with trajectories."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.benchmark.ours import Ours
from experiments.benchmark.rounds import Options, line, rounds


def segment_lines(probe: Ours, plain: Ours, hooks: Any, options: Options) -> list[str]:
    """A recording with the steps to the next, as images trained on a second."""
    contenders = {name: partial(of.segments, 1) for name, of in (("ours", probe), ("plain", plain), ("hooks", hooks))}
    t = rounds(contenders, options, "segments", options.epoch_repeats)
    images = probe.study.config.record.every * probe.study.config.train.batch_size
    return [
        line("segment with its recording, ours", images / t["ours"], " images/s"),
        line("segment with its recording, PyTorch hooks", images / t["hooks"], " images/s"),
        line("segment with its recording, hooks / ours", t["hooks"] / t["ours"]),
        line("segment, with recording / training only", t["ours"] / t["plain"]),
    ]


def epoch_lines(probe: Ours, plain: Ours, hooks: Any, tuned: Any, options: Options) -> list[str]:
    """Whole epochs: with recordings, with the step's own gradients, with trajectories."""
    config, dataset = probe.study.config, probe.dataset
    online = Ours(replace(config, record=replace(config.record, mode="online")), dataset)
    whole = len(probe.plan)
    counting = {"plain": plain.epoch, "online": online.epoch}
    torch = {"hooks": partial(hooks.segments, whole), "tuned": partial(tuned.segments, whole)}
    t = rounds({**counting, "ours": probe.epoch, **torch}, options, "epochs", options.epoch_repeats)
    lines = [
        line("epoch with recordings, ours", t["ours"], " s"),
        line("epoch with recordings, hooks / ours", t["hooks"] / t["ours"]),
        line("epoch with recordings, tuned / ours", t["tuned"] / t["ours"]),
    ]
    t = rounds(counting, options, "online", 5 * options.epoch_repeats)
    lines.append(line("epoch, online / training only", t["online"] / t["plain"]))
    with tempfile.TemporaryDirectory() as directory:
        watched = Ours(config, dataset, Path(directory))
        pair = {"unwatched": probe.epoch, "watched": watched.epoch}
        t = rounds(pair, options, "watched", 2 * options.epoch_repeats)
    lines.append(line("epoch with recordings, watched / unwatched", t["watched"] / t["unwatched"]))
    return lines
