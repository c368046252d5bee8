"""This package's side of the comparison: its jitted segments on random images, and the operations they take."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from neuron_mech import runs, taps
from neuron_mech.cluster import devices
from neuron_mech.config import PRESETS, Config
from neuron_mech.recording.online import Online
from neuron_mech.recording.recorder import Recorder
from neuron_mech.runs import planning, trajectories
from neuron_mech.runs import study as studies
from neuron_mech.runs.trajectories import Trajectories
from neuron_mech.training.datasets import Dataset, Samples

SHAPES = {"mnist": (60_000, 28, 28, 1), "cifar10": (50_000, 32, 32, 3)}
"""Training images of the data sets that are benchmarked."""

BENCHMARKED = tuple(
    name for name, config in PRESETS.items() if config.data.name in SHAPES and config.model.network in ("mlp", "cnn")
)
"""The presets whose network PyTorch's side has too."""


def random_images(name: str, samples: int) -> Dataset:
    """A data set of the shapes of the one called `name`."""
    draw = np.random.default_rng(0)
    part = Samples(
        jnp.asarray(draw.integers(0, 256, (samples, *SHAPES[name][1:]), dtype=np.uint8)),
        jnp.asarray(draw.integers(0, 10, samples), jnp.int32),
        largest=255,
    )
    return Dataset(name, part, part.rows(jnp.arange(min(100, samples))), 10)


class Ours:
    """This package's jitted segments, driven as a run drives them."""

    def __init__(self, config: Config, dataset: Dataset, watching: Path | None = None):
        """`watching` is where trajectories go; None keeps none."""
        self.study, self.state = planning.study(config, dataset)
        # Ratios are of one device each.
        design = replace(self.study.design, mesh=devices.alone())
        self.study = replace(self.study, plan=replace(self.study.plan, design=design))
        self.dataset, self.recorder = dataset, studies.recorder(self.study)
        self.state = devices.replicate(self.state, design.mesh)
        self.recorded = dataset.train.rows(self.study.recorded)
        self.plan = runs.plan_epoch(self.study, 0)
        self._segment = runs.advancing(self.study)
        watches = self.study.watches if watching else ()
        self.kept = Trajectories(watching or Path(), watches, trajectories.nothing_kept(watches))
        self._look = {watch.name: jax.jit(partial(trajectories.read, self.study, watch)) for watch in watches}

    def segments(self, count: int) -> None:
        """The epoch's first `count` segments: training steps, after a recording in modes that have one."""
        for segment in self.plan[:count]:
            self.state, self.recorder, _ = self._segment(self.state, self.recorder, self.dataset.train, *segment)
        jax.block_until_ready((self.state, self.recorder))

    def record(self) -> None:
        """One recording."""
        assert isinstance(self.recorder, Recorder)
        # As often as one likes: of what is measured here nobody looks at the counts.
        self.recorder = jax.block_until_ready(self.recorder.replace(count=np.int32(0)).update(self.state.variables))

    def epoch(self) -> None:
        """The first epoch, its recordings, trajectories and (mode online) the counting at its end included."""
        for index, segment in enumerate(self.plan):
            for watch, row in self.kept.due(index):
                self.kept.write(watch, row, *jax.device_get(self._look[watch.name](self.state, self.recorded)))
            self.state, self.recorder, _ = self._segment(self.state, self.recorder, self.dataset.train, *segment)
        if isinstance(self.recorder, Online):
            self.recorder = self.recorder.end_epoch()
        self.kept.sync()
        jax.block_until_ready((self.state, self.recorder))


def operations(ours: Ours) -> tuple[int, int]:
    """Multiplications and additions that (a training step, a recording) cannot do without.

    A step takes the forward pass thrice, but for the derivative with respect to the input. A recording takes it once
    for every sample, and the way back from the logits to the earliest site that counts the sample.
    """
    study, variables, one = ours.study, ours.state.variables, ours.dataset.train.rows(np.arange(1)).inputs
    layers = {
        name: 2 * int(np.prod(variables["params"][name]["kernel"].shape)) * int(np.prod(site.shape[:-1]))
        for name, site in taps.sites(study.model, variables, one).items()
        if name in variables["params"]
    }
    forward = sum(layers.values())
    step = study.config.train.batch_size * (3 * forward - next(iter(layers.values())))
    of_recording = 0
    for group in study.design.groups():
        before = taps.below(study.model, variables, one, group.sites[0])
        back = sum(count for name, count in layers.items() if name not in before)
        of_recording += (group.stop - group.start) * (forward + back)
    return step, of_recording
