"""The experiments on a neuron's categories, from a whole small run to files, figures and videos."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from experiments import class_consistency, learning_dynamics
from neuron_mech import runs, store
from neuron_mech.config import PRESETS, Model, Watch
from neuron_mech.errors import InputError
from neuron_mech.paper import figures, videos

SMALL = replace(
    PRESETS["digits"],
    train=replace(PRESETS["digits"].train, epochs=4),
    model=Model(width=1 / 8),
    watch=Watch(recordings=20, wide_recordings=5, wide_samples=400, neurons=1, named=("dense2:7",)),
)


def finished(config, directory):
    with store.opened(directory, config):
        return runs.run(config, directory, say=lambda _: None)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A small run with both experiments' results, but for the videos."""
    directory = tmp_path_factory.mktemp("run")
    run = finished(SMALL, directory)
    learning_dynamics.report(run, with_videos=False)
    class_consistency.report(run)
    return run, directory


@pytest.fixture(scope="module")
def dynamics(reported):
    return store.read_dataset(reported[1] / "learning_dynamics.nc")


@pytest.fixture(scope="module")
def consistency(reported):
    return store.read_dataset(reported[1] / "class_consistency.nc")


def category_of(run, site):
    tally = run.tallies["margin"][site]
    return np.sign(np.asarray(tally.positive, int) - np.asarray(tally.negative, int))


def test_files_are_labelled_and_figures_are_there(reported, dynamics, consistency):
    _, directory = reported
    for found in (dynamics, consistency):
        for name, variable in found.data_vars.items():
            assert variable.attrs["description"], name
            assert "units" in variable.attrs, name
    assert consistency.low_share.dims == ("neuron", "label")
    drawn = {file.stem for file in (directory / "figures").glob("*.png")}
    watched = [f"atlas_{site}_{index}" for site, index in dynamics.close_neuron.values]
    assert "atlas_dense2_7" in watched
    assert drawn == {
        *("figure2", "figure6_dense1", "figure6_dense2", "separation", "neurons_dense1", "neurons_dense2"),
        *("figure8", "predictions", *watched),
    }


def test_learning_dynamics_says_what_the_run_kept(reported, dynamics):
    run, _ = reported
    assert list(dynamics.close_epoch.values[[0, -1]]) == [0, 3 + 40 / 45]
    np.testing.assert_array_equal(dynamics.close_sample, run.study.recorded)
    labels = np.asarray(run.dataset.train.labels)[run.study.recorded]
    np.testing.assert_array_equal(dynamics.sample_label, labels)
    for site in ("dense1", "dense2"):
        category = category_of(run, site)
        close, at = dynamics.sel(close_neuron_site=site), dynamics.sel(neuron_site=site)
        neurons = close.close_neuron_index.values
        np.testing.assert_array_equal(close.category, category[:, neurons])
        assert float(at.neuron_low_share.mean()) == pytest.approx((category > 0).mean())
        highest = close.finally_highest.values.astype(bool)
        assert (category[:, neurons][highest] == -1).all()
        own, another, dealt = at.auc.isel(wide_epoch=-1).mean("neuron_index").values
        assert float(dynamics.separation.sel(site=site)) == pytest.approx(own, abs=1e-6)
        assert own > 0.55
        assert abs(another - 0.5) < 0.05
        assert abs(dealt - 0.5) < 0.02
        total = at.change.isel(wide_epoch=-1).sum("part", skipna=False).values
        assert np.isnan(total).mean() < 0.1  # neurons below 0 for every sample, which never learn
        np.testing.assert_allclose(total[~np.isnan(total)], 1, atol=1e-5)
    assert float(dynamics.accuracy[-1]) > 0.9 > float(dynamics.accuracy[0])


def test_class_consistency_says_what_the_tallies_say(reported, consistency):
    run, _ = reported
    labels = np.asarray(run.dataset.train.labels)[run.study.recorded]
    for site in ("dense1", "dense2"):
        at = consistency.sel(neuron_site=site)
        category = category_of(run, site)
        for neuron in (0, 33):
            for label in (0, 9):
                of = category[labels == label, neuron]
                assert float(at.low_share[neuron, label]) == pytest.approx((of > 0).sum() / (of != 0).sum())
        shares = at.low_share.values
        assert float(consistency.wholly.sel(site=site)) == pytest.approx(((shares <= 0.05) | (shares >= 0.95)).mean())
        by = at.agreement.mean("neuron_index").to_series()
        assert by["majority of the class"] > by["first recording"] > by["the neuron's larger category"]
        assert float(at.explained_by_class.mean()) > 0.2 > abs(float(at.permuted_explained_by_class.mean())) * 20
    page = consistency.isel(atlas_neuron=-1)
    assert page.atlas_neuron.item() == ("dense2", consistency.atlas_neuron_index.values[-1])
    of = dict(zip(run.study.recorded, category_of(run, "dense2")[:, int(page.atlas_neuron_index)], strict=True))
    low, high, _ = page.atlas_sample.values
    assert all(of[sample] == 1 for sample in low)
    assert all(of[sample] == -1 for sample in high)
    assert page.atlas_class_counts.values.sum() == sum(kind != 0 for kind in of.values())


def test_a_run_that_kept_nothing_says_so(tmp_path):
    plain = replace(SMALL, watch=Watch(recordings=0), train=replace(SMALL.train, epochs=1))
    run = finished(plain, tmp_path / "plain")
    with pytest.raises(InputError, match=r"watch.recordings 0: this run kept no trajectories"):
        learning_dynamics.dataset(run)
    found = class_consistency.dataset(run)
    assert "atlas_neuron" not in found.dims
    mute = finished(replace(plain, record=replace(plain.record, mode="none")), tmp_path / "mute")
    for experiment in (learning_dynamics, class_consistency):
        with pytest.raises(InputError, match=r"record.mode is none"):
            experiment.dataset(mute)


def test_only_some_neurons_and_sites_can_be_recorded_and_watched(tmp_path):
    record = replace(SMALL.record, sites=("dense2",), neurons=6)
    config = replace(SMALL, record=record, watch=replace(SMALL.watch, named=(), neurons=2))
    run = finished(replace(config, train=replace(SMALL.train, epochs=1)), tmp_path)
    found, classes = learning_dynamics.dataset(run), class_consistency.dataset(run)
    assert found.sizes["neuron"] == classes.sizes["neuron"] == 6
    assert set(found.neuron_site.values) == {"dense2"}
    np.testing.assert_array_equal(found.neuron_index, classes.neuron_index)
    assert set(found.close_neuron.values) <= set(found.neuron.values)
    np.testing.assert_array_equal(classes.atlas_neuron, found.close_neuron)


def test_without_closely_watched_neurons_all_of_them_are_still_measured(tmp_path):
    config = replace(SMALL, watch=replace(SMALL.watch, named=(), neurons=0), train=replace(SMALL.train, epochs=1))
    run = finished(config, tmp_path)
    learning_dynamics.report(run)
    found = store.read_dataset(tmp_path / "learning_dynamics.nc")
    assert found.auc.sel(neuron_site="dense2").sizes["neuron_index"] == 64
    assert np.isfinite(found.accuracy).all()
    assert "atlas_neuron" not in class_consistency.dataset(run).dims
    assert {file.stem for file in (tmp_path / "figures").glob("*.png")} == {
        *("separation", "neurons_dense1", "neurons_dense2")
    }


# --- Figures and videos -----------------------------------------------------------------------------------------------


def test_the_yellow_samples_are_the_same_at_every_moment(dynamics):
    figure = figures.dynamics(dynamics, [("dense2", 0), ("dense2", 1)])
    shares = (0, 0.02, 0.1, 0.4, 1)  # of 20 recordings, the first two fall together
    moments = sorted({int(np.abs(dynamics.close_epoch.values - 4 * share).argmin()) for share in shares})
    panels = np.array(figure.axes).reshape(2, 4)
    for index, row in enumerate(panels):
        at = dynamics.sel(close_neuron_site="dense2").isel(close_neuron_index=index)
        category, highest = at.category.values, at.finally_highest.values.astype(bool)
        for axes, moment in zip(row, moments, strict=True):
            values = at.pre_activation.values[moment]
            low, high, yellow = (patch.get_data() for patch in axes.patches[:3])
            inside = np.clip(values, low.edges[0], low.edges[-1])
            counts = [np.histogram(inside[who], low.edges)[0] for who in (category == 1, category == -1, highest)]
            peak = max(counts[0].max(), counts[1].max())
            for drawn, expected in zip((low, high, yellow), counts, strict=True):
                np.testing.assert_allclose(drawn.values * peak, expected, atol=1e-9)
        assert row[0].get_ylabel().startswith("dense2-relu\nneuron ")
    assert [axes.get_title() for axes in panels[0]] == ["start", "epoch 0.4", "epoch 2", "epoch 4"]


def test_figure_8_shows_every_class_of_every_neuron(consistency):
    figure = figures.class_consistency(consistency)
    for axes, site in zip(figure.axes, ("dense1", "dense2"), strict=True):
        heights = [bar.get_height() for bar in axes.patches[:40]]
        assert sum(heights) == 64 * 10
        shares = consistency.low_share.values[consistency.neuron_site.values == site]
        assert heights[0] == (100 * shares < 2.5).sum()
        assert axes.get_title() == f"{site}-relu"


def test_every_panel_has_labelled_axes_and_texts(dynamics, consistency):
    for figure in (
        figures.separation(dynamics),
        figures.all_neurons(dynamics, "dense1"),
        figures.predictions(consistency),
        figures.class_consistency(consistency),
    ):
        figure.canvas.draw()
        assert all(axes.get_ylabel() or not axes.get_subplotspec().is_first_col() for axes in figure.axes)
    images = np.zeros((3, 49, 8, 8, 1), np.uint8)
    page = figures.atlas(consistency, 0, images)
    assert "dense1-relu" in page.get_suptitle()


def test_a_video_shows_step_epoch_and_accuracy_and_stays_small(dynamics, tmp_path):
    figure, draw = videos.dynamics(dynamics, "dense2")
    (said,) = [text for text in figure.texts if not text.get_text()]
    draw(0)
    assert "step      0   epoch  0.00" in said.get_text()
    draw(videos.FRAMES - 1)
    last = round(180 * float(dynamics.close_epoch[-1]) / 4)
    assert f"step {last:6,d}   epoch  3.89   accuracy" in said.get_text()
    assert f"{100 * float(dynamics.accuracy[-1]):5.1f} %" in said.get_text()
    (line,) = videos.write(tmp_path / "dense2-relu", figure, draw, frames=12)
    assert line.startswith("video: ")
    data = (tmp_path / "dense2-relu.mp4").read_bytes()
    assert data[4:8] == b"ftyp"
    assert len(data) < videos.LARGEST


def test_without_an_encoder_a_gif_is_written_and_without_that_the_run_goes_on(dynamics, tmp_path, monkeypatch):
    from PIL import Image

    figure, draw = videos.dynamics(dynamics, "dense1")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    said = videos.write(tmp_path / "a", figure, draw, frames=12)
    assert said[0].startswith("no mp4 of a: ")
    assert said[1].startswith("video: ")
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 5
    monkeypatch.setattr(videos, "LARGEST", 100_000)
    videos.write(tmp_path / "small", figure, draw, frames=60)
    with Image.open(tmp_path / "small.gif") as picture:
        assert picture.n_frames < 20
    monkeypatch.setattr(
        videos.store.files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    said = videos.write(tmp_path / "b", figure, draw, frames=3)
    assert [line[:9] for line in said] == ["no mp4 of", "no gif of"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.gif", "small.gif"]
