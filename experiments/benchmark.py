"""How fast are training and recording, against PyTorch and against this machine's own matrix multiply?

Everything runs in one process, in turns, again and again; what counts are ratios, with their spread. The work is
MNIST's, on random images: speed does not depend on what they show. Needs the extra: pip install 'neuron_mech[bench]'.

  train step   a batch of 128, dropout, SGD
  recording    30,000 samples, 2 sites x 512 neurons: every sign's counts and flips
  epoch        469 training steps and 47 recordings
  online       an epoch that counts its own gradients, against one that only trains

hooks: forward hooks, retain_grad and backward(), as one would write it first. tuned: torch.autograd.grad with respect
to the activations alone, no parameter gradients. Both count what ours counts, in chunks as large.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.command_line import ask, exiting, split_preset
from neuron_mech import recording, runs
from neuron_mech.datasets import Dataset, Samples
from neuron_mech.errors import InputError
from neuron_mech.presets import PRESETS, Config, Record

BENCHMARKED = tuple(name for name, config in PRESETS.items() if config.data.name == "mnist")


@dataclass(frozen=True)
class Options:
    """How much of it."""

    repeats: int = 7
    """Rounds; in each, every contender runs once."""
    epoch_repeats: int = 3
    """Rounds of the contenders that take a whole epoch; 0 leaves them out."""
    samples: int = 30_000
    """Samples of a recording."""
    training_samples: int = 60_000
    """Samples of an epoch."""
    pause: float = 0.3
    """Seconds of rest before each measurement, since both libraries' idle threads spin for a while."""


def random_images(samples: int) -> Dataset:
    """A data set of MNIST's shapes."""
    draw = np.random.default_rng(0)
    part = Samples(
        jnp.asarray(draw.integers(0, 256, (samples, 28, 28, 1), dtype=np.uint8)),
        jnp.asarray(draw.integers(0, 10, samples), jnp.int32),
        largest=255,
    )
    return Dataset("mnist", part, part.rows(jnp.arange(100)), 10)


class Ours:
    """This package's jitted segments, driven as a run drives them."""

    def __init__(self, config: Config, dataset: Dataset):
        self.study, self.state = runs.study(config, dataset)
        self.dataset, self.counts = dataset, self.study.empty_counts()
        self.recorded = dataset.train.rows(self.study.recorded)
        self.plan = recording.plan_epoch(self.study, 0)
        self._segment = jax.jit(partial(recording.segment, self.study), donate_argnums=(0, 1))
        self._record = jax.jit(partial(recording.record, self.study), donate_argnums=(0,))
        self._end_epoch = jax.jit(recording.end_epoch, donate_argnums=0)

    def steps(self, count: int) -> None:
        """So many full batches, a segment at a time."""
        for segment in self.plan.segments[: count // self.study.config.record.every]:
            self.state, self.counts, _ = self._segment(
                self.state, self.counts, self.dataset.train, self.recorded, *segment
            )
        jax.block_until_ready((self.state, self.counts))

    def record(self) -> None:
        """One recording."""
        tallies = self._record(self.counts.tallies, self.state, self.recorded)
        self.counts = jax.block_until_ready(self.counts.replace(tallies=tallies))

    def epoch(self) -> None:
        """One epoch, its recordings and (mode online) the counting at its end included."""
        for segment in self.plan.segments:
            self.state, self.counts, _ = self._segment(
                self.state, self.counts, self.dataset.train, self.recorded, *segment
            )
        self.counts = self._end_epoch(self.counts, self.plan.positions)
        jax.block_until_ready((self.state, self.counts))


class Torch:
    """The same network, training and counts in PyTorch."""

    def __init__(self, config: Config, dataset: Dataset, tuned: bool):
        import torch

        self.torch, self.config, self.tuned = torch, config, tuned
        activation = {"relu": torch.nn.ReLU, "sigmoid": torch.nn.Sigmoid}[config.model.activation]
        self.activations = [activation(), activation()]
        drop = config.model.dropout
        self.model = torch.nn.Sequential(
            torch.nn.Linear(784, 512),
            self.activations[0],
            torch.nn.Dropout(drop),
            torch.nn.Linear(512, 512),
            self.activations[1],
            torch.nn.Dropout(drop),
            torch.nn.Linear(512, 10),
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.train.learning_rate)
        self.images = torch.from_numpy(np.array(dataset.train.images)).reshape(len(dataset.train), -1)
        self.labels = torch.from_numpy(np.array(dataset.train.labels)).long()
        self.recorded = torch.arange(len(dataset.train) if config.record.samples == "all" else config.record.samples)
        shape = (len(self.recorded), 512)
        self.counts = [[torch.zeros(shape, dtype=torch.int16) for _ in range(4)] for _ in self.activations]

    def _inputs(self, ids):
        return self.images[ids].float() / 255

    def steps(self, count: int) -> None:
        """So many full batches."""
        size = self.config.train.batch_size
        self._train(self.torch.randperm(len(self.images))[: count * size].split(size))

    def _train(self, batches) -> None:
        self.model.train()
        for ids in batches:
            loss = self.torch.nn.functional.cross_entropy(self.model(self._inputs(ids)), self.labels[ids])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()

    def record(self) -> None:
        """One recording."""
        self.model.eval()
        for start in range(0, len(self.recorded), self.config.record.chunk):
            ids = self.recorded[start : start + self.config.record.chunk]
            for counts, gradient in zip(self.counts, self.gradients(ids), strict=True):
                self._count([count[start : start + len(ids)] for count in counts], gradient)

    def gradients(self, ids) -> list:
        """Derivatives of each sample's cross-entropy with respect to its activations at both sites."""
        torch, captured = self.torch, []
        if self.tuned:
            x = self._inputs(ids)
            parameters = list(self.model.parameters())
            for parameter in parameters:
                parameter.requires_grad_(False)
            for layer in self.model:
                x = layer(x)
                if layer in self.activations:
                    x = x if x.requires_grad else x.requires_grad_()
                    captured.append(x)
            loss = torch.nn.functional.cross_entropy(x, self.labels[ids], reduction="sum")
            found = list(torch.autograd.grad(loss, captured))
            for parameter in parameters:
                parameter.requires_grad_(True)
            return found

        def keep(module, args, output):
            output.retain_grad()
            captured.append(output)

        hooks = [module.register_forward_hook(keep) for module in self.activations]
        self.model.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(self.model(self._inputs(ids)), self.labels[ids], reduction="sum").backward()
        for hook in hooks:
            hook.remove()
        return [output.grad for output in captured]

    def _count(self, counts, gradient) -> None:
        positive, negative, flips, last = counts
        sign = self.torch.sign(gradient).to(self.torch.int16)
        positive += sign > 0
        negative += sign < 0
        flips += (sign * last) < 0
        self.torch.where(sign != 0, sign, last, out=last)

    def epoch(self) -> None:
        """One epoch with its recordings."""
        every, size = self.config.record.every, self.config.train.batch_size
        batches = self.torch.randperm(len(self.images)).split(size)
        for start in range(0, len(batches), every):
            self.record()
            self._train(batches[start : start + every])


def matmul_rates() -> dict[str, Callable[[], None]]:
    """Square float32 matrix multiplies, 2 x 2048^3 operations each, by both libraries."""
    import torch

    a = jax.random.normal(jax.random.key(0), (2048, 2048))
    multiply = jax.jit(jnp.matmul)
    b = torch.from_numpy(np.array(a))
    return {
        "matmul jax": lambda: multiply(a, a).block_until_ready(),
        "matmul torch": lambda: torch.mm(b, b),
    }


def rounds(contenders: dict[str, Callable[[], object]], repeats: int, pause: float, what: str) -> dict[str, np.ndarray]:
    """Seconds of each contender in each round, in turns, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in tqdm(range(repeats + 1), desc=what, unit="round"):
        for name, work in contenders.items():
            time.sleep(pause)
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in times.items()}


def spread(values: np.ndarray, unit: str = "") -> str:
    """Median and range."""
    return f"{np.median(values):7.3f}{unit} ({values.min():.3f} to {values.max():.3f})"


def useful_flops(samples: int) -> int:
    """Multiplications and additions that recording both sites cannot do without: forward, and back to dense1."""
    return 2 * samples * (784 * 512 + 512 * 512 + 512 * 10 + 10 * 512 + 512 * 512)


def benchmark(preset: str, options: Options) -> None:
    """Measure and print."""
    config = PRESETS[preset]
    dataset = random_images(options.training_samples)
    config = replace(config, record=replace(config.record, samples=options.samples))
    probe = Ours(config, dataset)
    plain = Ours(replace(config, record=Record(mode="none", every=config.record.every)), dataset)
    online = Ours(replace(config, record=replace(config.record, mode="online")), dataset)
    hooks, tuned = Torch(config, dataset, tuned=False), Torch(config, dataset, tuned=True)

    count = config.record.every * min(10, len(plain.plan.segments) - 1)  # the last segment is shorter
    t = rounds(
        {
            **matmul_rates(),
            "step ours": lambda: plain.steps(count),
            "step torch": lambda: hooks.steps(count),
            "recording ours": probe.record,
            "recording hooks": hooks.record,
            "recording tuned": tuned.record,
        },
        options.repeats,
        options.pause,
        "steps and recordings",
    )
    peak = 2 * 2048**3 / np.minimum(t["matmul jax"], t["matmul torch"]) / 1e9
    rate = useful_flops(options.samples) / t["recording ours"] / 1e9
    lines = [
        f"{preset} on one {jax.devices()[0].device_kind}; median (range) of {options.repeats} rounds",
        f"float32 matrix multiply, the faster library   {spread(peak, ' GFLOP/s')}",
        f"train step, ours                              {spread(t['step ours'] / count * 1e3, ' ms')}",
        f"train step, PyTorch                           {spread(t['step torch'] / count * 1e3, ' ms')}",
        f"train step, ours / PyTorch                    {spread(t['step ours'] / t['step torch'])}",
        f"recording, ours                               {spread(t['recording ours'], ' s')}",
        f"recording, hooks / ours                       {spread(t['recording hooks'] / t['recording ours'])}",
        f"recording, tuned / ours                       {spread(t['recording tuned'] / t['recording ours'])}",
        f"recording, useful rate / matrix multiply      {spread(rate / peak)}",
    ]
    if options.epoch_repeats:
        t = rounds(
            {
                "plain": plain.epoch,
                "online": online.epoch,
                "ours": probe.epoch,
                "hooks": hooks.epoch,
                "tuned": tuned.epoch,
            },
            options.epoch_repeats,
            options.pause,
            "epochs",
        )
        lines += [
            f"epoch with recordings, ours                   {spread(t['ours'], ' s')}",
            f"epoch with recordings, hooks / ours           {spread(t['hooks'] / t['ours'])}",
            f"epoch with recordings, tuned / ours           {spread(t['tuned'] / t['ours'])}",
        ]
        t = rounds({"plain": plain.epoch, "online": online.epoch}, 5 * options.epoch_repeats, options.pause, "online")
        lines.append(f"epoch, online / training only                 {spread(t['online'] / t['plain'])}")
    print("\n".join(lines))


def main() -> None:
    """The command line."""
    preset, rest = split_preset(sys.argv[1:], "benchmark", BENCHMARKED)
    options = ask(Options, Options(), rest, f"benchmark {preset}", __doc__ or "")
    for name in ("repeats", "samples", "training_samples"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(options, name)}: give a number of at least 1")
    if options.samples > options.training_samples:
        raise InputError(f"--samples is {options.samples}, more than --training-samples {options.training_samples}")
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InputError("the benchmark compares with PyTorch: pip install 'neuron_mech[bench]'") from None
    benchmark(preset, options)


if __name__ == "__main__":
    exiting(main)
