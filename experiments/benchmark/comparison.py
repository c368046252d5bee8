"""How fast are training and recording, against PyTorch and against this machine's own matrix multiply?

Everything runs in one process, in turns, again and again; what counts are ratios, with their spread. The work is the
preset's, on random images: speed does not depend on what they show. On a GPU where JAX and PyTorch have one. Needs the
extra: pip install 'neuron_mech[bench]'.

  train step   a batch as the preset trains on it, dropout or augmentation included, SGD
  recording    the preset's samples and sites, all neurons: every sign's counts and flips
  own          recorders in a plain loop: a recording against this package's, a recorded step against a plain one
  segment      a recording and the training steps to the next; cifar10 only: images a second, recording included
  windows      ten windows' retraining in one program against one window's. mnist: an epoch above dense1, one after
               another and in a PyTorch loop too. cifar10: steps above --window-sites, in each form of convolutions

and for mnist

  epoch        469 training steps and 47 recordings
  online       an epoch that counts its own gradients, against one that only trains
  watched      an epoch with recordings that keeps trajectories too, as often as the preset does
  thresholds   accuracy under eleven two-value codes of a site, all in one program, against one after another

and on a GPU

  products     a recording exact, fast and in float32, PyTorch's in TF32 and float32, and matrix multiplies in both

hooks: forward hooks, retain_grad and backward(), as one would write it first. tuned: torch.autograd.grad with respect
to the activations alone, no parameter gradients. compiled: training through torch.compile. All count what ours counts,
in chunks as large.
"""

import importlib.util
import sys
from dataclasses import replace

import jax

from experiments.benchmark.codes import code_lines
from experiments.benchmark.ours import BENCHMARKED, SHAPES, Ours, operations, random_images
from experiments.benchmark.products import product_lines
from experiments.benchmark.recorders import own_lines
from experiments.benchmark.rounds import Options, line, matmul_rate, matmuls, rounds
from experiments.benchmark.training import epoch_lines, segment_lines
from experiments.benchmark.windows import window_lines
from experiments.command_line.arguments import ask, split_preset
from neuron_mech.cluster import devices
from neuron_mech.config import PRESETS
from neuron_mech.errors import InputError


def benchmark(preset: str, options: Options) -> None:
    """Measure, and print each group of lines when it is done."""
    devices.deterministic()  # as runs are
    config = PRESETS[preset]
    gpu = jax.default_backend() == "gpu"
    size = 8192 if gpu else 2048  # no smaller product takes a GPU's whole speed
    dataset = random_images(config.data.name, options.training_samples or SHAPES[config.data.name][0])
    samples, every = options.samples or config.record.samples, min(options.steps, config.record.every)
    config = replace(
        config,
        model=replace(config.model, width=options.width),
        record=replace(config.record, samples=samples, every=every),
    )
    plain = Ours(replace(config, record=replace(config.record, mode="none")), dataset)
    if options.only_windows:
        print(f"{preset} on one {jax.devices()[0].device_kind}; median (range) of {options.epoch_repeats} rounds")
        _show(window_lines(plain, options))
        return
    from experiments.benchmark import pytorch

    pytorch.multiply(config.train.precision)
    probe = Ours(config, dataset)
    hooks, tuned = (pytorch.Torch(probe.study, dataset, tuned=which) for which in (False, True))
    compiled = pytorch.Torch(probe.study, dataset, tuned=False, compiled=True) if options.compiled else None

    segments = min(max(1, options.steps // config.record.every), len(plain.plan) - 1)  # the last is shorter
    count = segments * config.record.every
    t = rounds(
        {
            **matmuls(size),
            "step ours": lambda: plain.segments(segments),
            "step torch": lambda: hooks.steps(count),
            **({"step compiled": lambda: compiled.steps(count)} if compiled else {}),
            "recording ours": probe.record,
            "recording hooks": hooks.record,
            "recording tuned": tuned.record,
        },
        options,
        "steps and recordings",
    )
    peak = matmul_rate(t, size)
    of_step, of_recording = operations(probe)
    step_rate, rate = count * of_step / t["step ours"] / 1e9, of_recording / t["recording ours"] / 1e9
    lines = [
        f"{preset} on one {jax.devices()[0].device_kind}; median (range) of {options.repeats} rounds",
        line(f"{'TF32' if gpu else 'float32'} matrix multiply, the faster library", peak, " GFLOP/s"),
        line("train step, ours", t["step ours"] / count * 1e3, " ms"),
        line("train step, PyTorch", t["step torch"] / count * 1e3, " ms"),
        line("train step, ours / PyTorch", t["step ours"] / t["step torch"]),
        *([line("train step, ours / PyTorch compiled", t["step ours"] / t["step compiled"])] if compiled else []),
        line("train step, useful rate / matrix multiply", step_rate / peak),
        line("recording, ours", t["recording ours"], " s"),
        line("recording, hooks / ours", t["recording hooks"] / t["recording ours"]),
        line("recording, tuned / ours", t["recording tuned"] / t["recording ours"]),
        line("recording, useful rate / matrix multiply", rate / peak),
    ]
    _show(lines)
    if gpu:
        _show(product_lines(probe, hooks, tuned, size, options))
    if options.epoch_repeats and config.model.network == "cnn":
        _show(segment_lines(probe, plain, hooks, options))
    elif options.epoch_repeats:
        _show(epoch_lines(probe, plain, hooks, tuned, options))
        _show(code_lines(plain, options))
    if options.epoch_repeats:
        _show(window_lines(plain, options))
    _show(own_lines(probe, options))


def _show(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)


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
    if options.only_windows and not options.epoch_repeats:
        raise InputError("--only-windows with --epoch-repeats 0 measures nothing: give at least 1")
    if not options.only_windows and importlib.util.find_spec("torch") is None:
        raise InputError(
            "the benchmark compares with PyTorch: pip install 'neuron_mech[bench]', or give --only-windows"
        )
    benchmark(preset, options)
