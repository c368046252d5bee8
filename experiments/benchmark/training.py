"""Whole segments and epochs: training with recordings, with the step's own gradients, with trajectories."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.benchmark.ours import Ours
from experiments.benchmark.rounds import Options, line, rounds


def segment_lines(probe: Ours, plain: Ours, hooks: Any, options: Options) -> list[str]:
    """A recording with the steps to the next, as images trained on a second."""
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: probe.segments(1),
        "plain": lambda: plain.segments(1),
        "hooks": lambda: hooks.segments(1),
    }
    t = rounds(contenders, options.epoch_repeats, options.pause, "segments")
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
    t = rounds(
        {
            "plain": plain.epoch,
            "online": online.epoch,
            "ours": probe.epoch,
            "hooks": lambda: hooks.segments(whole),
            "tuned": lambda: tuned.segments(whole),
        },
        options.epoch_repeats,
        options.pause,
        "epochs",
    )
    lines = [
        line("epoch with recordings, ours", t["ours"], " s"),
        line("epoch with recordings, hooks / ours", t["hooks"] / t["ours"]),
        line("epoch with recordings, tuned / ours", t["tuned"] / t["ours"]),
    ]
    t = rounds({"plain": plain.epoch, "online": online.epoch}, 5 * options.epoch_repeats, options.pause, "online")
    lines.append(line("epoch, online / training only", t["online"] / t["plain"]))
    with tempfile.TemporaryDirectory() as directory:
        watched = Ours(config, dataset, Path(directory))
        pair: dict[str, Callable[[], object]] = {"unwatched": probe.epoch, "watched": watched.epoch}
        t = rounds(pair, 2 * options.epoch_repeats, options.pause, "watched")
    lines.append(line("epoch with recordings, watched / unwatched", t["watched"] / t["unwatched"]))
    return lines
