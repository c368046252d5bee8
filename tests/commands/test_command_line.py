"""Bad input: one line that names the field, the value and what to do, exit code 2, and nothing started."""

import importlib
import re
import sys
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import command_line, helping, prepare_data
from experiments.benchmark import ours as benchmark
from experiments.benchmark import products, rounds
from neuron_mech import taps
from neuron_mech.config import PRESETS, Config
from neuron_mech.errors import InputError
from neuron_mech.recording.design import Moment
from neuron_mech.runs import study as studies
from neuron_mech.training import datasets

CNN = ("--model.network", "cnn", "--model.depth", "None", "--model.dropout", "None", "--model.width", "0.0625")
EXPERIMENTS = (
    "train",
    "gradient_signs",
    "learning_dynamics",
    "class_consistency",
    "quantization",
    "binarization",
    "prepare_data",
    "benchmark",
)


def call(monkeypatch, capsys, name, *arguments):
    """(exit code, stdout, stderr) of `python -m experiments.NAME ARGUMENTS`, in this process."""
    module = importlib.import_module(
        "experiments.benchmark.comparison" if name == "benchmark" else f"experiments.{name}"
    )
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    work = getattr(module, "main", None)
    try:
        if name in ("prepare_data", "benchmark"):
            command_line.exiting(work)
        else:
            extras = {
                "train": ("Options", "check_training"),
                "quantization": ("QuantizationOptions", "check"),
                "binarization": ("BinarizationOptions", "check"),
                "learning_dynamics": ("DynamicsOptions", "check"),
                "gradient_signs": ("Options", "check_recording"),
                "class_consistency": ("Options", "check_recording"),
            }.get(name, ())
            known = vars(command_line) | vars(module)
            command_line.main(name, module.__doc__, module.experiment, *(known[part] for part in extras))
        code = 0
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], r"'digit' is no preset; did you mean 'digits'\? presets are: digits, mnist-relu"),
        ([], r"no preset given: python -m experiments.train PRESET, where PRESET is one of digits"),
        (
            ["digits", "--train.epohs", "3"],
            r"Unrecognized options: --train.epohs, 3; perhaps you meant --train.epochs INT",
        ),
        (["digits", "--train.epochs", "x"], r"--train.epochs: invalid literal for int\(\).*'x'"),
        (["digits", "--train.epochs"], r"Missing value for argument '--train.epochs'"),
        (
            ["digits", "--record.objective", "hinge"],
            r"invalid choice 'hinge' for argument '--record.objective'. Expected one of",
        ),
        (
            ["digits", "--record.sites", "dense3"],
            r"record.sites names 'dense3', which is no site; did you mean 'dense\d'\?",
        ),
        (["digits", "--record.sites"], r"record.sites is empty"),
        (["digits", "--record.samples", "2000"], r"record.samples is 2000, but digits has 1437 training samples"),
        (["digits", "--record.samples", "0"], r"record.samples is 0: give a whole number of at least 1"),
        (["digits", "--record.neurons", "-3"], r"record.neurons is -3"),
        (["digits", "--train.batch-size", "0"], r"train.batch_size is 0"),
        (["digits", "--train.batch-size", "5000"], r"train.batch_size is 5000, but digits has 1437"),
        (["digits", "--train.epochs", "-1"], r"train.epochs is -1"),
        (["digits", "--train.learning-rate", "nan"], r"train.learning_rate is nan"),
        (["digits", "--train.seed", "-1"], r"train.seed is -1"),
        (["digits", "--model.dropout", "1"], r"model.dropout is 1.0"),
        (["digits", "--model.width", "0"], r"model.width is 0.0"),
        (["digits", "--model.depth", "0"], r"model.depth is 0"),
        (["digits", "--record.every", "0"], r"record.every is 0"),
        (["digits", "--train.drop-after", "0"], r"train.drop_after is 0.0: give a share above 0, at most 1"),
        (["digits", "--train.drop-factor", "0"], r"train.drop_factor is 0.0: give a positive"),
        (["digits", "--model.depth", "None"], r"model.depth is None, but the network mlp needs one"),
        (["digits", "--model.network", "cnn"], r"model.depth is 2, which the network cnn does not have"),
        (["cifar10-relu", "--model.dropout", "0.5"], r"model.dropout is 0.5, which the network cnn does not have"),
        (["cifar10-relu", "--model.width", "0.001"], r"model.width is 0.001: give a factor from 1/64 to 64"),
        (["digits", "--record.site-samples", "dense1"], r"site_samples has 'dense1': give SITE:COUNT"),
        (["digits", "--record.site-samples", "dense1:0"], r"site_samples has 'dense1:0': give SITE:COUNT"),
        (
            ["digits", "--record.site-samples", "dense9:5"],
            r"site_samples has 'dense9:5', which is no site; sites are: affine1, dense1",
        ),
        (
            ["digits", *CNN, "--record.sites", "stage3layer3"],
            r"names 'stage3layer3', which is no site; did you mean 'stage\dlayer\d'\? sites are: .*stage0layer0, .*"
            r"stage3layer2",
        ),
        (["digits", "--data.train-images", "0"], r"data.train_images is 0: give a whole number of at least 1"),
        (["digits", "--data.name", "digit"], r"data.name is 'digit', which TensorFlow Datasets does not know"),
        (["digits", "--workers", "-1"], r"--workers is -1: give a whole number of at least 0"),
        (["digits", "--data.pixels", "0"], r"data.pixels is 0: give a whole number of at least 1, or None"),
        (["digits", "--model.variant", "small"], r"model.variant is small, which the network mlp does not have"),
        (["digits", "--model.weights", "keras"], r"model.weights is keras, which the network mlp cannot have"),
        (["digits", "--model.weights", "random"], r"model.weights is random, so nothing is trained here: run quant"),
        (["cifar10-resnet50", "--model.depth", "3"], r"model.depth is 3, which the network resnet50 does not have"),
        (["cifar10-resnet50", "--model.variant", "None"], r"variant is None, but the network resnet50 needs one"),
        (["cifar10-resnet50", "--model.weights", "keras"], r"keras, which the network resnet50 \(small\) cannot have"),
        (
            ["imagenet-resnet50"],
            r"model.weights is keras, so nothing is trained here: run quantization or binarization",
        ),
        (["imagenet-resnet50", "--model.width", "0.5"], r"weights is keras, but model.width is 0.5 .* at 1 and relu"),
        (["digits", "--record.chunk", "0"], r"record.chunk is 0"),
        (["digits", "--record.saturation", "2"], r"record.saturation is 2.0"),
        (
            ["digits", "--record.mode", "online", "--record.objective", "keras2017"],
            r"record.mode online counts the training loss's own",
        ),
        (["digits", "--record.compare-objectives", "margin"], r"repeats an objective"),
        (["digits", "--watch.recordings", "-1"], r"watch.recordings is -1"),
        (["digits", "--watch.recordings", "1"], r"watch.recordings is 1: give at least 2"),
        (["digits", "--watch.wide-samples", "1"], r"watch.wide_samples is 1: give a whole number of at least 2"),
        (
            ["digits", "--watch.named", "dense2"],
            r"watch.named has 'dense2': name a neuron as SITE:INDEX",
        ),
        (["digits", "--watch.named", "dens2:1"], r"watch.named has 'dens2:1'.*did you mean 'dense2'\?.*dense1, dense2"),
        (["digits", "--watch.named", "dense2:512"], r"watch.named has 'dense2:512', but of dense2 neurons 0 to 511"),
        (["digits", "--save-seconds", "-1"], r"--save-seconds is -1.0"),
        (["digits", "--save-seconds", "nan"], r"--save-seconds is nan"),
        (
            ["mnist-relu", "--data-dir", "nowhere"],
            r"--data-dir nowhere has no mnist prepared.*experiments.prepare_data mnist.*neuron_mech\[prepare\]",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, "train", *arguments)
    assert code == 2
    assert err.count("\n") == 1, err
    assert re.search(message, err), err
    assert not list(tmp_path.rglob("checkpoints")), "work had started"
    assert not list(tmp_path.rglob("config.json")), "the directory is taken by what was refused"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("quantization", ["--ranks", "50", "120"], r"--ranks has 120.0: percentile ranks run from 0 to 100"),
        ("quantization", ["--ranks"], r"--ranks is empty"),
        ("quantization", ["--seeds", "0"], r"--seeds is 0"),
        ("gradient_signs", ["--record.mode", "none"], r"record.mode is none"),
        ("class_consistency", ["--record.mode", "none"], r"record.mode is none"),
        ("learning_dynamics", ["--record.mode", "none"], r"record.mode is none"),
        ("learning_dynamics", ["--watch.recordings", "0"], r"watch.recordings is 0"),
        ("binarization", ["--width", "150"], r"--width is 150.0"),
        ("binarization", ["--centers", "2"], r"--centers has 2.0, whose window of width 10.0 leaves ranks 0 to 100"),
        ("binarization", ["--centers"], r"--centers is empty"),
        ("binarization", ["--together", "0"], r"--together is 0"),
        ("binarization", ["--sources"], r"--sources is empty: name at least one of trained, untrained, projection"),
        ("binarization", ["--sources", "pixels"], r"invalid choice 'pixels'"),
    ],
)
def test_bad_codes_are_refused_before_anything_is_trained(monkeypatch, capsys, tmp_path, name, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, name, "digits", *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert not list(tmp_path.iterdir())


def test_a_site_that_is_not_recorded_is_refused_before_anything_is_trained(monkeypatch, capsys, tmp_path):
    arguments = ("digits", "--run-dir", tmp_path, "--sites", "dense1", "dens2")
    read, load = [], datasets.load
    monkeypatch.setattr(datasets, "load", lambda data, *rest: read.append(data) or load(data, *rest))
    code, _, err = call(monkeypatch, capsys, "binarization", *arguments)
    assert [(data.train_images, data.test_images) for data in read] == [(1, 1)]  # the data set itself is read once
    assert code == 2
    assert re.fullmatch(r"error: --sites names 'dens2', which is no site; did you mean 'dense\d'\? .*\n", err), err
    assert not list(tmp_path.rglob("checkpoints"))
    assert not (tmp_path / "config.json").exists()


def test_a_run_too_large_for_memory_or_disk_names_the_fields_to_change(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(studies, "recorder", lambda *_: pytest.fail("it allocated before it asked"))
    with monkeypatch.context() as patch:
        patch.setattr("psutil.virtual_memory", lambda: type("", (), {"available": 10**7})())
        code, _, err = call(patch, capsys, "train", "digits", "--run-dir", tmp_path)
    assert code == 2
    assert re.search(r"needs \d+.\d MB of cpu memory and 10.0 MB are free: lower record.samples \(now 1437\)", err)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 10**6})())
        code, _, err = call(patch, capsys, "train", "digits", "--run-dir", tmp_path)
    assert code == 2
    assert re.search(r"checkpoints need up to \d+.\d MB in --run-dir .* and 1.0 MB are free", err)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_explains_and_starts_nothing(monkeypatch, capsys, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    for arguments in (["--help"], ["mnist-relu", "--help"]):
        code, out, _ = call(monkeypatch, capsys, name, *arguments)
        assert code == 0
        assert "usage: python -m experiments." + name in out
    if name in ("train", "gradient_signs"):
        for section in fields(Config):
            for option in fields(getattr(PRESETS["digits"], section.name)) if section.name != "preset" else ():
                assert f"--{section.name}.{option.name.replace('_', '-')}" in out
    assert not list(tmp_path.iterdir())


def test_help_begins_with_the_common_ten_and_an_experiment_s_own(monkeypatch, capsys):
    _, said, _ = call(monkeypatch, capsys, "binarization", "mnist-relu", "--help")
    assert said.startswith("usage: python -m experiments.binarization PRESET ")
    short, _, whole = said.partition("All options, by what they are about:")
    common, _, own = short.partition("Those of this experiment alone:")
    listed = re.findall(r"^  (--[\w.-]+)", common, re.MULTILINE)
    assert listed == [f"--{name.replace('_', '-')}" for name in helping.COMMON]
    assert len(listed) == 10
    assert {"--centers", "--width", "--readout", "--sources"} <= set(re.findall(r"^  (--[\w.-]+)", own, re.MULTILINE))
    assert "  --record.samples       Training samples recorded, chosen at random (30000)\n" in common
    for group in ("data", "model", "train", "record", "watch"):
        assert f"{group} options" in whole
    assert max(len(line) for line in short.splitlines() if line.startswith("  ")) <= helping.WIDTH


def test_options_are_fields_of_the_preset(tmp_path):
    config, options = command_line.parse(
        [
            "mnist-sigmoid",
            "--train.epochs",
            "5",
            "--record.sites",
            "dense2",
            "dense1",
            "--record.samples",
            "all",
            "--run-dir",
            str(tmp_path),
        ],
        "train",
        "",
    )
    assert (config.train.epochs, config.record.sites, config.record.samples) == (5, ("dense2", "dense1"), "all")
    assert (config.train.learning_rate, config.model.activation) == (1.0, "sigmoid")
    assert options.run_dir == tmp_path


def test_preparing_data_says_what_is_there_and_what_is_missing(monkeypatch, capsys, tmp_path):
    assert prepare_data.prepare("digits", None).endswith("nothing to prepare")
    import tensorflow_datasets

    tensorflow_datasets.builder("mnist", data_dir=tmp_path, try_gcs=False)  # it looks for tensorflow at its first

    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if it were not installed
    code, _, err = call(monkeypatch, capsys, "prepare_data", "mnist-relu", "--data-dir", tmp_path)
    assert code == 2
    assert "pip install 'neuron_mech[prepare]'" in err


def test_weights_are_for_the_network_that_has_them(monkeypatch, capsys, tmp_path):
    code, _, err = call(monkeypatch, capsys, "prepare_data", "digits", "--weights", "weights.h5")
    assert (code, err) == (2, "error: --weights is weights.h5, but digits has no weights of Keras's: leave it out\n")
    (tmp_path / "weights.h5").write_text("nothing of the kind")
    code, _, err = call(
        monkeypatch, capsys, "prepare_data", "imagenet-resnet50", "--data-dir", tmp_path, "--weights", "weights.h5"
    )
    assert code == 2
    assert "--weights weights.h5 cannot be read as weights of Keras" in err


def test_prepared_data_is_recognised(mnist):
    assert prepare_data.prepare("mnist", None).startswith("mnist is prepared in ")
    assert (len(mnist.train), len(mnist.test), mnist.classes) == (60_000, 10_000, 10)
    assert mnist.train.images.shape == (60_000, 28, 28, 1)


def test_a_damaged_data_set_is_said(tmp_path, mnist):
    import shutil

    found = datasets.builder("mnist", None).data_path
    shutil.copytree(found, tmp_path / "mnist" / found.name)
    next((tmp_path / "mnist").rglob("*train*")).write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(InputError, match=r"record 0 of mnist train: .* put it right in the data"):
        datasets.load(PRESETS["mnist-relu"].data, tmp_path)


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
