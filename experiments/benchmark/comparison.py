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
from experiments.benchmark.rounds import Options, matmul_rate, matmuls, rounds, spread
from experiments.benchmark.training import epoch_lines, segment_lines
from experiments.benchmark.windows import window_lines
from experiments.command_line import ask, split_preset
from neuron_mech.cluster import devices
from neuron_mech.config import PRESETS
from neuron_mech.errors import InputError


def benchmark(preset: str, options: Options) -> None:
    """Measure, and print each part when it is done."""
    devices.deterministic()  # as runs are
    config = PRESETS[preset]
    gpu = jax.default_backend() == "gpu"
    size = 8192 if gpu else 2048  # no smaller product takes a GPU's whole speed
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
    plain = Ours(replace(config, record=replace(config.record, mode="none")), dataset)
    if options.only_windows:
        print(f"{preset} on one {jax.devices()[0].device_kind}; median (range) of {options.epoch_repeats} rounds")
        print("\n".join(window_lines(plain, options)), flush=True)
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
        options.repeats,
        options.pause,
        "steps and recordings",
    )
    peak = matmul_rate(t, size)
    of_step, of_recording = operations(probe)
    step_rate, rate = count * of_step / t["step ours"] / 1e9, of_recording / t["recording ours"] / 1e9
    lines = [
        f"{preset} on one {jax.devices()[0].device_kind}; median (range) of {options.repeats} rounds",
        f"{'TF32' if gpu else 'float32'} matrix multiply, the faster library".ljust(46) + spread(peak, " GFLOP/s"),
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
    print("\n".join(lines), flush=True)
    if gpu:
        print("\n".join(product_lines(probe, hooks, tuned, size, options)), flush=True)
    if options.epoch_repeats and config.model.network == "cnn":
        print("\n".join(segment_lines(probe, plain, hooks, options)), flush=True)
    elif options.epoch_repeats:
        print("\n".join(epoch_lines(probe, plain, hooks, tuned, options)), flush=True)
        print("\n".join(code_lines(plain, options)), flush=True)
    if options.epoch_repeats:
        print("\n".join(window_lines(plain, options)), flush=True)
    print("\n".join(own_lines(probe, options)), flush=True)


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
