"""How fast are training and recording, against PyTorch and against this machine's own matrix multiply?

Everything runs in one process, in turns, again and again; what counts are ratios, with their spread. The work is the
preset's, on random images: speed does not depend on what they show. On a GPU where JAX and PyTorch have one. Needs the
extra: pip install 'neuron_mech[bench]'.

  train step   a batch as the preset trains on it, dropout or augmentation included, SGD
  recording    the preset's samples and sites, all neurons: every sign's counts and flips
  own          recorders in a plain loop: a recording against this package's, a recorded step against a plain one
  segment      a recording and the training steps to the next; cifar10 only: images a second, recording included

and for mnist

  epoch        469 training steps and 47 recordings
  online       an epoch that counts its own gradients, against one that only trains
  watched      an epoch with recordings that keeps trajectories too, as often as the preset does
  thresholds   accuracy under eleven two-value codes of a site, all in one program, against one after another
  windows      an epoch of retraining above dense1 through ten windows, together, apart, and in a PyTorch loop

hooks: forward hooks, retain_grad and backward(), as one would write it first. tuned: torch.autograd.grad with respect
to the activations alone, no parameter gradients. compiled: training through torch.compile. All count what ours counts,
in chunks as large.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.command_line import ask, exiting, split_preset
from neuron_mech import (
    binarization,
    evaluation,
    own,
    planning,
    quantization,
    recording,
    retraining,
    sources,
    taps,
    trajectories,
)
from neuron_mech.datasets import Dataset, Samples
from neuron_mech.errors import InputError
from neuron_mech.presets import PRESETS, Config
from neuron_mech.trajectories import Trajectories

SHAPES = {"mnist": (60_000, 28, 28, 1), "cifar10": (50_000, 32, 32, 3)}
"""Training images of the data sets that are benchmarked."""
BENCHMARKED = tuple(
    name for name, config in PRESETS.items() if config.data.name in SHAPES and config.model.network in ("mlp", "cnn")
)
"""The presets whose network PyTorch's side has too."""


@dataclass(frozen=True)
class Options:
    """How much of it."""

    repeats: int = 7
    """Rounds; in each, every contender runs once."""
    epoch_repeats: int = 3
    """Rounds of the contenders that take a whole epoch or segment; 0 leaves them out."""
    steps: int = 100
    """Training steps of one measurement, and of a segment."""
    samples: int | None = None
    """Samples of a recording; None: the preset's."""
    training_samples: int | None = None
    """Samples of an epoch; None: the data set's."""
    width: float = 1.0
    """Factor on the neurons of a hidden layer."""
    compiled: bool = False
    """Whether PyTorch's training step is also measured compiled; it needs a C++ compiler."""
    pause: float = 0.3
    """Seconds of rest before each measurement, since both libraries' idle threads spin for a while."""


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
        self.study = replace(self.study, devices=1)
        self.dataset, self.counts = dataset, self.study.empty_counts()
        self.recorded = dataset.train.rows(self.study.recorded)
        self.plan = recording.plan_epoch(self.study, 0)
        self._segment = recording.advancing(self.study)
        self._record = recording.recorder(self.study)
        self._end_epoch = jax.jit(recording.end_epoch, donate_argnums=0)
        watches = trajectories.watches(self.study) if watching else ()
        self.kept = Trajectories(watching or Path(), watches, trajectories.nothing_kept(watches))
        self._look = {watch.name: jax.jit(partial(trajectories.read, self.study, watch)) for watch in watches}

    def segments(self, count: int) -> None:
        """The epoch's first so many segments: training steps, after a recording in the modes that have one."""
        for segment in self.plan.segments[:count]:
            self.state, self.counts, _ = self._segment(
                self.state, self.counts, self.dataset.train, self.recorded, *segment
            )
        jax.block_until_ready((self.state, self.counts))

    def record(self) -> None:
        """One recording."""
        tallies = self._record(self.counts.tallies, self.state, self.recorded)
        self.counts = jax.block_until_ready(self.counts.replace(tallies=tallies))

    def epoch(self) -> None:
        """The first epoch, its recordings, trajectories and (mode online) the counting at its end included."""
        for index, segment in enumerate(self.plan.segments):
            for watch, row in self.kept.due(index):
                self.kept.write(watch, row, *jax.device_get(self._look[watch.name](self.state, self.recorded)))
            self.state, self.counts, _ = self._segment(
                self.state, self.counts, self.dataset.train, self.recorded, *segment
            )
        self.counts = self._end_epoch(self.counts, self.plan.positions)
        self.kept.sync()
        jax.block_until_ready((self.state, self.counts))


def matmul_rates() -> dict[str, Callable[[], object]]:
    """Square float32 matrix multiplies, 2 x 2048^3 operations each, by both libraries."""
    import torch

    from experiments import pytorch

    a = jax.random.normal(jax.random.key(0), (2048, 2048))
    multiply = jax.jit(jnp.matmul)
    b = torch.from_numpy(np.array(a)).to(pytorch.DEVICE)

    def torch_multiply() -> None:
        torch.mm(b, b)
        pytorch.wait()

    return {"matmul jax": lambda: multiply(a, a).block_until_ready(), "matmul torch": torch_multiply}


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


def code_contenders(ours: Ours) -> dict[str, Callable[[], object]]:
    """Accuracy on 10,000 samples under eleven two-value codes: in one program, and one after another."""
    study, variables, test = (
        ours.study,
        ours.state.variables,
        ours.dataset.train.rows(np.arange(min(10_000, len(ours.dataset.train)))),
    )
    contenders: dict[str, Callable[[], object]] = {}
    source, key = sources.network(study.model, variables, study.sites), jax.random.key(0)
    for name, (values, _) in sources.chosen_values(source, test, key, dict.fromkeys(study.sites, key)).items():
        codes = quantization.at_ranks(jnp.asarray(values), range(0, 101, 10))

        def score(codes, name=name) -> object:
            trials = {"codes": evaluation.Trial(name, quantization.quantized, codes, key)}
            return evaluation.accuracies(study.model, variables, study.sites, trials, test)

        def apart(codes=codes, score=score) -> None:
            for index in range(11):
                score(jax.tree.map(itemgetter(slice(index, index + 1)), codes))

        contenders |= {f"{name} together": partial(score, codes), f"{name} apart": apart}
    return contenders


def window_contenders(ours: Ours) -> dict[str, Callable[[], object]]:
    """One epoch of retraining above dense1 through ten windows: together, apart, and in PyTorch."""
    from experiments import pytorch

    study, variables, train = ours.study, ours.state.variables, ours.dataset.train
    config = replace(study.config, train=replace(study.config.train, epochs=1))
    source, key = sources.network(study.model, variables, study.sites), jax.random.key(0)
    values = sources.chosen_values(source, train, key, {"dense1": key})["dense1"].values
    windows = binarization.at_centers(values, range(5, 100, 10), 10)
    look = retraining.binarizer(source, "dense1")
    seen, few = look(windows, train), look(windows, train.rows(np.arange(100)))
    cut = retraining.cut(config, study.model, variables, train.rows(np.arange(1)), study.sites["dense1"])
    retrain = retraining.Retraining(cut)
    bits = np.stack([np.asarray(binarization.unpack(window, (512,)), bool) for window in seen.bits])

    def apart() -> None:
        for index in range(10):
            one, test = (part.replace(bits=part.bits[index : index + 1]) for part in (seen, few))
            retrain(one, test)

    return {
        "windows together": lambda: retrain(seen, few),
        "windows apart": apart,
        "windows torch": lambda: pytorch.retrain_epoch(config, bits, np.asarray(train.labels)),
    }


def spread(values: np.ndarray, unit: str = "") -> str:
    """Median and range."""
    return f"{np.median(values):7.3f}{unit} ({values.min():.3f} to {values.max():.3f})"


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
    for group in recording.groups(study):
        before = taps.below(study.model, variables, one, group.sites[0])
        back = sum(count for name, count in layers.items() if name not in before)
        of_recording += (group.stop - group.start) * (forward + back)
    return step, of_recording


def benchmark(preset: str, options: Options) -> None:
    """Measure and print."""
    from experiments import pytorch

    config = PRESETS[preset]
    dataset = random_images(config.data.name, options.training_samples or SHAPES[config.data.name][0])
    config = replace(config, model=replace(config.model, width=options.width))
    config = replace(
        config,
        record=replace(
            config.record,
            samples=options.samples or config.record.samples,
            every=min(options.steps, config.record.every),
        ),
    )
    probe = Ours(config, dataset)
    plain = Ours(replace(config, record=replace(config.record, mode="none")), dataset)
    hooks, tuned = (pytorch.Torch(probe.study, dataset, tuned=which) for which in (False, True))
    compiled = pytorch.Torch(probe.study, dataset, tuned=False, compiled=True) if options.compiled else None

    segments = min(max(1, options.steps // config.record.every), len(plain.plan.segments) - 1)  # the last is shorter
    count = segments * config.record.every
    t = rounds(
        {
            **matmul_rates(),
            "step ours": lambda: plain.segments(segments),
            "step torch": lambda: hooks.steps(count),
            **({"step compiled": lambda: compiled.steps(count)} if compiled else {}),
            "recording ours": probe.record,
            "recording hooks": hooks.record,
            "recording tuned": tuned.record,
        },
        options.repeats,
        options.pause,
        "steps and recordings",
    )
    peak = 2 * 2048**3 / np.minimum(t["matmul jax"], t["matmul torch"]) / 1e9
    of_step, of_recording = operations(probe)
    step_rate, rate = count * of_step / t["step ours"] / 1e9, of_recording / t["recording ours"] / 1e9
    lines = [
        f"{preset} on one {jax.devices()[0].device_kind}; median (range) of {options.repeats} rounds",
        f"float32 matrix multiply, the faster library   {spread(peak, ' GFLOP/s')}",
        f"train step, ours                              {spread(t['step ours'] / count * 1e3, ' ms')}",
        f"train step, PyTorch                           {spread(t['step torch'] / count * 1e3, ' ms')}",
        f"train step, ours / PyTorch                    {spread(t['step ours'] / t['step torch'])}",
        *(
            [f"train step, ours / PyTorch compiled           {spread(t['step ours'] / t['step compiled'])}"]
            if compiled
            else []
        ),
        f"train step, useful rate / matrix multiply     {spread(step_rate / peak)}",
        f"recording, ours                               {spread(t['recording ours'], ' s')}",
        f"recording, hooks / ours                       {spread(t['recording hooks'] / t['recording ours'])}",
        f"recording, tuned / ours                       {spread(t['recording tuned'] / t['recording ours'])}",
        f"recording, useful rate / matrix multiply      {spread(rate / peak)}",
    ]
    if options.epoch_repeats and config.model.network == "cnn":
        lines += segment_lines(probe, plain, hooks, options)
    elif options.epoch_repeats:
        lines += epoch_lines(probe, plain, hooks, tuned, options) + code_lines(plain, options)
    lines += own_lines(probe, options)
    print("\n".join(lines))


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
    whole = len(probe.plan.segments)
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


def own_lines(probe: Ours, options: Options) -> list[str]:
    """Recorders in a loop of one's own: a recording against this package's, an online step against a plain one."""
    study, train = probe.study, probe.dataset.train
    model, sites, size = study.model, tuple(study.sites), study.config.train.batch_size
    state = probe.state
    images, labels = train.inputs, train.labels
    variables = {"params": state.params, **state.statistics}
    mine = own.recorder(
        *(model, variables, images, labels, sites),
        recordings=10**4,
        samples=min(study.rows(site) for site in sites),
        chunk=study.config.record.chunk,
        audit=False,
    )
    # Alike for both: this package's recording of as many samples.
    rows = tuple(f"{site}:{len(mine.rows)}" for site in sites)
    alike = Ours(replace(study.config, record=replace(study.config.record, site_samples=rows)), probe.dataset)
    seen = own.online(*(model, variables, images[:8], sites), samples=len(labels), recordings=100, mixing="batch")

    def loss(params: Any, nudges: Any, ids: jax.Array) -> jax.Array:
        outputs = seen.nudged(nudges)({"params": params, **state.statistics}, images[ids])
        return jax.nn.softplus(own.margin(outputs, labels[ids])).mean()

    def down(params: Any, gradients: Any) -> Any:
        return jax.tree.map(lambda p, g: p - study.config.train.learning_rate * g, params, gradients)

    plain = jax.jit(lambda params, ids: down(params, jax.grad(loss)(params, {}, ids)), donate_argnums=0)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, recorder: own.Online, ids: jax.Array) -> tuple[Any, own.Online]:
        gradients, signs = jax.grad(loss, argnums=(0, 1))(params, recorder.nudges(size), ids)
        return down(params, gradients), recorder.saw(signs, ids)

    order = jnp.arange(len(labels) // size * size).reshape(-1, size)[: options.steps]
    kept = {"plain": jax.tree.map(jnp.copy, state.params), "online": (jax.tree.map(jnp.copy, state.params), seen)}
    kept["probe"] = mine

    def plainly() -> None:
        for ids in order:
            kept["plain"] = plain(kept["plain"], ids)
        jax.block_until_ready(kept["plain"])

    def online() -> None:
        params, recorder = kept["online"]
        for ids in order:
            params, recorder = step(params, recorder, ids)
        # Counting costs the same whatever waits: an epoch's, once for its share of an epoch.
        kept["online"] = jax.block_until_ready((params, recorder.replace(filled=jnp.zeros((), jnp.int32))))

    def count() -> None:
        params, recorder = kept["online"]
        full = recorder.replace(ids=jnp.arange(len(recorder.ids)) % len(labels), filled=jnp.asarray(len(labels)))
        kept["online"] = jax.block_until_ready((params, full.end_epoch().replace(most=jnp.zeros((), jnp.int32))))

    def record() -> None:
        kept["probe"] = jax.block_until_ready(kept["probe"].update(variables))

    contenders: dict[str, Callable[[], object]] = {
        "plain": plainly,
        "online": online,
        "count": count,
        "record": record,
        "alike": alike.record,
    }
    t = rounds(contenders, options.repeats, options.pause, "own recorders")
    counting = t["count"] * len(order) / (len(labels) // size)
    return [
        f"own.recorder / recording, ours                {spread(t['record'] / t['alike'])}",
        f"own.online, a step and its share of counting / plain step  {spread((t['online'] + counting) / t['plain'])}",
    ]


def code_lines(plain: Ours, options: Options) -> list[str]:
    """Eleven thresholds, and ten windows' retraining."""
    codes, windows = code_contenders(plain), window_contenders(plain)
    first: dict[str, float] = {}
    for name, work in (codes | windows).items():
        start = time.perf_counter()
        work()
        first[name] = time.perf_counter() - start
    t = rounds(codes, options.repeats, options.pause, "thresholds") | rounds(
        windows, options.epoch_repeats, options.pause, "windows"
    )
    return [
        f"eleven thresholds at dense1, apart / together  {spread(t['dense1 apart'] / t['dense1 together'])}",
        f"eleven thresholds at dense2, apart / together  {spread(t['dense2 apart'] / t['dense2 together'])}",
        f"ten windows, an epoch together                {spread(t['windows together'], ' s')}",
        f"ten windows, apart / together                 {spread(t['windows apart'] / t['windows together'])}",
        f"ten windows, PyTorch / together               {spread(t['windows torch'] / t['windows together'])}",
        f"ten windows, PyTorch / apart                  {spread(t['windows torch'] / t['windows apart'])}",
        "compilation: "
        + ", ".join(f"{name} {first[name] - np.median(t[name]):.1f} s" for name in first if "torch" not in name),
    ]


def main() -> None:
    """The command line."""
    preset, rest = split_preset(sys.argv[1:], "benchmark", BENCHMARKED)
    options = ask(Options, Options(), rest, f"benchmark {preset}", __doc__ or "")
    for name in ("repeats", "steps", "samples", "training_samples"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} is {value}: give a number of at least 1")
    recorded, there = (options.samples or PRESETS[preset].record.samples), options.training_samples
    if isinstance(recorded, int) and recorded > (there or SHAPES[PRESETS[preset].data.name][0]):
        raise InputError(f"--samples is {recorded}, more than --training-samples {there}")
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InputError("the benchmark compares with PyTorch: pip install 'neuron_mech[bench]'") from None
    benchmark(preset, options)


if __name__ == "__main__":
    exiting(main)
