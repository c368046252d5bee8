"""Run directories: one owner, one config, files that are whole or absent."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import neuron_mech
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
        "import sys, time; from pathlib import Path; from neuron_mech import config, store\n"
        "with store.opened(Path(sys.argv[1]), config.PRESETS['digits']): print('held', flush=True); time.sleep(60)"
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


def by_neuron():
    """A result file over the neurons 3 and 9 of one site, and 0 and 3 of the next, whose name comes first."""
    parts = [store.of_site("z/b", [3, 9], {"share": ("neuron", [0.1, 0.2])})]
    return store.stacked([*parts, store.of_site("a", np.array([0, 3]), {"share": ("neuron", [0.3, 0.4])})])


def test_neurons_are_selected_by_site_and_index_before_and_after_they_are_on_disk(tmp_path):
    store.write_dataset(tmp_path / "a.nc", by_neuron())
    for found in (by_neuron(), store.read_dataset(tmp_path / "a.nc")):
        assert found.share.values.tolist() == [0.1, 0.2, 0.3, 0.4]
        assert found.neuron.values.tolist() == [("z/b", 3), ("z/b", 9), ("a", 0), ("a", 3)]
        assert found.share.sel(neuron_site="a", neuron_index=3).item() == 0.4
        assert found.share.sel(neuron_site="z/b").neuron_index.values.tolist() == [3, 9]
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as plain:  # without this package
        assert plain.attrs["format"] == store.FORMAT
        assert plain.share[(plain.neuron_site == "a") & (plain.neuron_index == 3)].item() == 0.4


@pytest.mark.parametrize("written", [None, store.FORMAT - 1, store.FORMAT + 1])
def test_a_file_of_another_format_is_refused(tmp_path, written):
    attributes = {} if written is None else {"format": written}
    xr.Dataset({"neuron_constancy_dense1": ("neuron_dense1", [0.5])}, attrs=attributes).to_netcdf(
        tmp_path / "gradient_signs.nc", engine="h5netcdf"
    )
    said = (
        rf"gradient_signs.nc is of result format {written or 1}, .* reads format {store.FORMAT} only: remove it and run"
    )
    for read in (lambda: store.read_dataset(tmp_path / "gradient_signs.nc"), lambda: neuron_mech.load(tmp_path)):
        with pytest.raises(store.FormatError, match=said) as refused:
            read()
        assert "\n" not in str(refused.value)


def test_load_opens_a_run_and_its_repetitions_as_one_tree(tmp_path):
    config = PRESETS["digits"]
    repeated = replace(config, train=replace(config.train, seed=1))
    for directory, of in ((tmp_path, config), (tmp_path / "seed1", repeated)):
        with store.opened(directory, of):
            store.write_dataset(directory / "gradient_signs.nc", by_neuron().assign(seed=of.train.seed))
    store.write_dataset(tmp_path / "train.nc", xr.Dataset({"loss": ("step", [1.0, 0.5])}))
    (tmp_path / "binarization.damaged.nc").write_bytes(b"set aside")
    run = neuron_mech.load(str(tmp_path))
    assert {node.path for node in run.leaves} == {"/gradient_signs", "/train", "/seed1/gradient_signs"}
    assert run.attrs["train.epochs"] == config.train.epochs
    assert run.attrs["preset"] == "digits"
    assert [run[at].seed.item() for at in ("gradient_signs", "seed1/gradient_signs")] == [0, 1]
    assert run["seed1/gradient_signs"].share.sel(neuron_site="z/b", neuron_index=9).item() == 0.2
    (tmp_path / "train.nc").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"train.nc cannot be read"):
        neuron_mech.load(tmp_path)
    with pytest.raises(InputError, match="holds no result files"):
        neuron_mech.load(tmp_path / "nowhere")


def test_a_missing_or_damaged_dataset_is_said(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\nnot really")
    for name in ("a.nc", "b.nc"):
        with pytest.raises(InputError, match=rf"{name} cannot be read"):
            store.read_dataset(tmp_path / name)
