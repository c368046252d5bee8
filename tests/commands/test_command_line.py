"""Bad input: one line that names the field, the value and what to do, exit code 2, and nothing started."""

import re
from dataclasses import fields

import pytest

from calling import call
from experiments import command_line
from experiments.command_line import helping
from neuron_mech.config import PRESETS, Config
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
        (["digits", "--model.network", "cnn"], r"model.dropout is 0.5, which the network cnn does not have"),
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
