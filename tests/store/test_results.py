"""Run directories: one owner, one config, files that are whole or absent."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from neuron_mech import store
from neuron_mech.config import PRESETS, Config, Model, Record, Train
from neuron_mech.errors import InputError, RunError
from neuron_mech.store import files

CONFIG = PRESETS["digits"]


def test_a_config_survives_its_file(tmp_path):
    config = Config(
        "digits", train=Train(epochs=3), record=Record(sites=("dense2",), compare_objectives=("keras2017",))
    )
    with store.opened(tmp_path / "run", config):
        assert store.read_config(tmp_path / "run") == config
    with store.opened(tmp_path / "run", config):
        pass  # the same config may come again


def test_another_configuration_is_refused_by_the_fields_that_differ(tmp_path):
    with store.opened(tmp_path, CONFIG):
        pass
    other = replace(CONFIG, train=replace(CONFIG.train, epochs=5), model=Model(activation="sigmoid"))
    with (
        pytest.raises(InputError, match=r"model.activation: 'relu' / 'sigmoid'; train.epochs: 50 / 5: name another"),
        store.opened(tmp_path, other),
    ):
        pass


def test_a_refused_request_leaves_the_directory_to_the_one_that_was_meant(tmp_path):
    other = replace(CONFIG, train=replace(CONFIG.train, epochs=5))
    with pytest.raises(InputError, match="no such site"), store.opened(tmp_path, CONFIG):
        raise InputError("no such site")

    def stops_before_it_saved():
        (tmp_path / "checkpoints" / "17.part").mkdir(parents=True)
        (tmp_path / "trajectories").mkdir()
        raise RunError("the loss is nan: lower train.learning_rate")

    with pytest.raises(RunError, match="lower"), store.opened(tmp_path, CONFIG):
        stops_before_it_saved()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]

    def begins_and_stops():
        (tmp_path / "checkpoints" / "17").mkdir(parents=True)
        raise InputError("a wrong window")

    with pytest.raises(InputError, match="a wrong window"), store.opened(tmp_path, other):
        begins_and_stops()
    assert store.read_config(tmp_path) == other
    with pytest.raises(InputError, match="again"), store.opened(tmp_path, other):
        raise InputError("again")
    assert store.read_config(tmp_path) == other


def test_a_directory_in_use_by_another_process_is_refused_until_that_dies(tmp_path):
    hold = (
        "import sys, time; from pathlib import Path; from neuron_mech import results, presets\n"
        "with store.opened(Path(sys.argv[1]), presets.PRESETS['digits']): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=rf"in use by another process \({other.pid} on .*remove {tmp_path}/.lock"),
            store.opened(tmp_path, CONFIG),
        ):
            pass
    finally:
        other.kill()
        other.communicate()
    with store.opened(tmp_path, CONFIG):
        pass


def test_an_unwritable_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with (
        pytest.raises(InputError, match=r"run-dir .*file/run cannot be written"),
        store.opened(tmp_path / "file" / "run", CONFIG),
    ):
        pass


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"preset": 1, "data": {}, "model": {}, "train": {}, "record": {"sites": [], "compare_objectives": []}}',
    ],
)
def test_a_damaged_config_is_said(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json cannot be read"), store.opened(tmp_path, CONFIG):
        pass


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    files.write(path, lambda part: part.write_text("whole"))

    def fail(part):
        part.write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"cannot write .*a.txt \(No space left on device; \d+ MB free\).*intact"):
        files.write(path, fail)
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_dataset_comes_back_labelled_and_the_same_values_give_the_same_bytes(tmp_path):
    data = xr.Dataset(
        {"constancy": ("site", [0.5, np.nan], {"units": "1", "description": "a share"})}, {"site": ["dense1", "dense2"]}
    )
    store.write_dataset(tmp_path / "a.nc", data)
    store.write_dataset(tmp_path / "b.nc", data)
    xr.testing.assert_identical(store.read_dataset(tmp_path / "a.nc"), data)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def test_a_missing_or_damaged_dataset_is_said(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\nnot really")
    for name in ("a.nc", "b.nc"):
        with pytest.raises(InputError, match=rf"{name} cannot be read"):
            store.read_dataset(tmp_path / name)
