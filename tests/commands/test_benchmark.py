"""The benchmark compares equal work, counts its operations right, and runs small."""

import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calling import call
from experiments.benchmark import ours as benchmark
from experiments.benchmark import products, rounds
from experiments.command_line.arguments import ask
from neuron_mech import taps
from neuron_mech.config import PRESETS
from neuron_mech.recording.design import Moment

pytestmark = pytest.mark.long


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize("preset", ["mnist-relu", "cifar10-relu"])
def test_the_benchmark_compares_equal_work(preset, tuned):
    """PyTorch's hooks, its autograd.grad and our recording count the same signs on the same weights."""
    torch = pytest.importorskip("torch", reason="the extra bench is not installed")

    from experiments.benchmark import pytorch

    config = PRESETS[preset]
    limits = ("stage0layer0:20", "stage2layer2:30") if preset == "cifar10-relu" else ()
    record = replace(config.record, samples=50, chunk=20, site_samples=limits)
    config = replace(config, record=record, model=replace(config.model, width=1 / 8))
    data = benchmark.random_images(config.data.name, 300)
    ours = benchmark.Ours(config, data)
    theirs = pytorch.Torch(ours.study, data, tuned)
    affine = [layer for layer in theirs.model if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))]
    named = [
        part
        for part in taps.sites(ours.study.model, ours.state.variables, data.test.inputs[:1])
        if part in ours.state.params
    ]
    assert len(affine) == len(named)
    for layer, name in zip(affine, named, strict=True):
        kernel = np.array(ours.state.params[name]["kernel"])
        order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        layer.weight.data = torch.from_numpy(kernel.transpose(order).copy())
        layer.bias.data = torch.from_numpy(np.array(ours.state.params[name]["bias"]))
    for _ in range(2):
        ours.record()
        theirs.record()
    for site, (positive, negative, flips, _) in theirs.counts.items():
        tally = ours.recorder.counts()[site]
        assert tally.positive.shape[0] == ours.study.design.rows[site]
        for mine, other in ((tally.positive, positive), (tally.negative, negative), (tally.flips, flips)):
            other = other.numpy()
            other = other.transpose(0, 2, 3, 1) if other.ndim == 4 else other
            assert (np.asarray(mine) != other).mean() < 2e-3


@pytest.fixture
def small():
    """A small preset, for the benchmark."""
    config = PRESETS["mnist-relu"]
    record = replace(config.record, samples=50, chunk=20, precision="fast")
    return benchmark.Ours(
        replace(config, record=record, model=replace(config.model, width=1 / 8)), benchmark.random_images("mnist", 300)
    )


def test_a_recording_in_float32_is_one_on_any_device(small):
    """On a CPU it counts what ours counts; for a GPU no product in it is left to the device."""
    here = small.recorder
    args = (here.tallies, here.samples, Moment(small.state.variables, small.state.step))
    record = products.float32_recorder(small.study.design)
    text = str(jax.make_jaxpr(record)(*args))
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == text.count("dot_general[") > 0
    found = record(jax.tree.map(jnp.copy, args[0]), *args[1:])
    small.record()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(small.recorder.tallies), strict=True):
        np.testing.assert_array_equal(one, other)


def test_recordings_and_products_are_measured_in_each_arithmetic(small, monkeypatch):
    pytest.importorskip("torch", reason="the extra bench is not installed")
    from experiments.benchmark import pytorch

    told = []
    monkeypatch.setattr(pytorch, "multiply", told.append)
    hooks, tuned = (pytorch.Torch(small.study, small.dataset, tuned=which) for which in (False, True))
    few = rounds.Options(repeats=1, pause=0.0)
    lines = products.product_lines(small, hooks, tuned, 64, few)
    for name in (
        "TF32 matrix multiply",
        "float32 matrix multiply",
        "recording, exact",
        "recording, in float32 / exact",
    ):
        assert any(line.startswith(f"{name} ") for line in lines), name
    assert told == ["float32", "default"] * 8


@pytest.mark.parametrize(("arithmetic", "expected"), [("default", ("high", True)), ("float32", ("highest", False))])
def test_pytorch_multiplies_on_a_gpu_as_ours_does(monkeypatch, arithmetic, expected):
    torch = pytest.importorskip("torch", reason="the extra bench is not installed")
    from experiments.benchmark import pytorch

    def now():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before, benchmarking = now(), torch.backends.cudnn.benchmark
    pytorch.multiply(arithmetic)
    assert now() == before, "on a CPU nothing is to be said"
    monkeypatch.setattr(pytorch, "DEVICE", "cuda")
    pytorch.multiply(arithmetic)
    assert now() == expected
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1], benchmarking


def test_the_benchmark_counts_the_operations_of_the_mlp():
    config = replace(PRESETS["mnist-relu"], record=replace(PRESETS["mnist-relu"].record, samples=50))
    step, recording = benchmark.operations(benchmark.Ours(config, benchmark.random_images("mnist", 300)))
    assert step == 2 * 128 * (3 * (784 * 512 + 512 * 512 + 512 * 10) - 784 * 512)
    assert recording == 2 * 50 * (784 * 512 + 512 * 512 + 512 * 10 + 10 * 512 + 512 * 512)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["mnist-relu", "--training-samples", "2700", "--samples", "200", "--width", "0.25"],
            ("tuned / ours", "online / training only", "watched / unwatched", "at dense1, apart", "PyTorch / together"),
        ),
        (
            [
                *("cifar10-relu", "--training-samples", "400", "--samples", "20", "--steps", "2"),
                *("--width", "0.0625", "--window-sites", "stage3layer1"),
            ],
            (
                *("recording, hooks / ours", "segment with its recording, hooks / ours", "images/s"),
                *("a step of one window above stage3layer1", "10 as patches"),
            ),
        ),
    ],
)
def test_the_benchmark_runs_whole_and_small(monkeypatch, capsys, arguments, said):
    pytest.importorskip("torch", reason="the extra bench is not installed")
    few = ("--repeats", "1", "--epoch-repeats", "1", "--pause", "0")
    code, out, _ = call(monkeypatch, capsys, "benchmark", *arguments, *few)
    assert code == 0
    for line in ("ours / PyTorch", "useful rate / matrix multiply", *said):
        assert line in out


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ("mnist-relu", ("ten windows, apart / together",)),
        ("cifar10-relu", ("a step of one window above", "10 as convolutions", "1 as products", "10 as patches")),
    ],
)
def test_windows_are_benchmarked_without_pytorch(monkeypatch, capsys, preset, said):
    ask(rounds.Options, rounds.Options(), [], "benchmark", "")  # tyro looks for torch when it is first used
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    small = ("--training-samples", "600", "--samples", "20", "--steps", "2", "--width", "0.0625")
    few = ("--epoch-repeats", "1", "--pause", "0", "--window-sites", "stage3layer1")
    code, _, err = call(monkeypatch, capsys, "benchmark", preset, *small)
    assert (code, err.count("\n")) == (2, 1)
    assert "or give --only-windows" in err
    code, out, err = call(monkeypatch, capsys, "benchmark", preset, *small, *few, "--only-windows")
    assert code == 0, err
    for line in said:
        assert line in out
