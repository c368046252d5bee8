"""Whole segments and epochs: training with recordings, with the step's own gradients, with trajectories."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.benchmark.ours import Ours
from experiments.benchmark.rounds import Options, rounds, spread


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
        f"segment with its recording, ours              {spread(images / t['ours'], ' images/s')}",
        f"segment with its recording, PyTorch hooks     {spread(images / t['hooks'], ' images/s')}",
        f"segment with its recording, hooks / ours      {spread(t['hooks'] / t['ours'])}",
        f"segment, with recording / training only       {spread(t['ours'] / t['plain'])}",
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
        f"epoch with recordings, ours                   {spread(t['ours'], ' s')}",
        f"epoch with recordings, hooks / ours           {spread(t['hooks'] / t['ours'])}",
        f"epoch with recordings, tuned / ours           {spread(t['tuned'] / t['ours'])}",
    ]
    t = rounds({"plain": plain.epoch, "online": online.epoch}, 5 * options.epoch_repeats, options.pause, "online")
    lines.append(f"epoch, online / training only                 {spread(t['online'] / t['plain'])}")
    with tempfile.TemporaryDirectory() as directory:
        watched = Ours(config, dataset, Path(directory))
        pair: dict[str, Callable[[], object]] = {"unwatched": probe.epoch, "watched": watched.epoch}
        t = rounds(pair, 2 * options.epoch_repeats, options.pause, "watched")
    lines.append(f"epoch with recordings, watched / unwatched    {spread(t['watched'] / t['unwatched'])}")
    return lines
