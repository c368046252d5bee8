"""Figures show the data they were given."""

import numpy as np
import pytest
import xarray as xr

from neuron_mech import store
from neuron_mech.paper import figures
from neuron_mech.recording import counting


@pytest.fixture
def signs():
    center = (counting.BIN_EDGES[:-1] + counting.BIN_EDGES[1:]) / 2
    histogram = np.arange(2 * 3 * 20).reshape(6, 20)
    variables = {
        "constancy": ("site", [0.25, 0.75]),
        "random_neuron": ("site", [2, 0]),
        "positions": ("site", [1, 16]),
        "constancy_so_far": (("site", "epoch"), [[0.2, 0.3], [0.7, 0.8]]),
        "constancy_by_phase": (("site", "phase"), [[0.2, np.nan], [0.6, 0.8]]),
        "saturation_epoch": ((), -1),
        "objective_constancy": (("objective", "site"), [[0.1, 0.2], [0.3, 0.4]]),
        "zero_share": (("objective", "site"), [[0.0, 0.0], [0.0, 0.0]]),
        "train_accuracy": ("epoch", [0.8, 0.9]),
        "test_accuracy": ("epoch", [0.7, 0.8]),
    }
    variables["neuron_histogram"] = (("neuron", "bin"), histogram)
    variables["neuron_constancy"] = ("neuron", [0.1, 0.2, 0.3] * 2)
    found = xr.Dataset(
        variables,
        {
            "site": ["a", "b"],
            "label": ("site", ["a-relu", "b-relu"]),
            "epoch": [1, 2],
            "phase": ["before", "after"],
            "bin": center,
            "objective": ["margin", "keras2017"],
            "neuron_site": ("neuron", ["a"] * 3 + ["b"] * 3),
            "neuron_index": ("neuron", [0, 1, 2] * 2),
        },
        {"saturation": 0.99},
    )
    return store.selectable(found)


@pytest.mark.parametrize("one_neuron", [True, False])
def test_bars_are_the_histogram_and_titles_name_the_site(signs, one_neuron):
    figure = figures.average_sign_histograms(signs, one_neuron)
    panels = figure.axes
    assert [p.get_title() for p in panels] == (
        ["neuron 2 of a-relu", "neuron 0 of b-relu"]
        if one_neuron
        else ["all 3 neurons of a-relu", "all 3 neurons of b-relu"]
    )
    heights = [bar.get_height() for bar in panels[0].patches]
    counts = signs.neuron_histogram.values[:3]
    np.testing.assert_array_equal(heights, counts[2] if one_neuron else counts.sum(0))
    said = [text.get_text() for text in panels[0].texts]
    share = signs.neuron_constancy.values[2] if one_neuron else signs.constancy.values[0]
    assert said == [f"{share:.0%} constant"]


def test_every_panel_has_labelled_axes(signs):
    for figure in (
        figures.average_sign_histograms(signs),
        figures.constancy_over_training(signs),
        figures.objectives(signs),
    ):
        figure.canvas.draw()
        assert all(axes.get_ylabel() for axes in figure.axes)


@pytest.fixture
def codes():
    rng = np.random.default_rng(0)
    curve = ("seed", "site", "percentile_rank")
    variables = {
        **{
            f"{name}_by_seed": (curve, rng.random((3, 2, 4)))
            for name in ("accuracy", "noise_accuracy", "permuted_accuracy")
        },
        "zero_rank_mean": ("site", [40.0, 60.0]),
        "zero_threshold_accuracy": ("site", [0.8, 0.9]),
        "original_accuracy": ((), 0.97),
        "chance": ((), 0.1),
        "accuracy_by_seed_windows": (("source", "seed", "site", "window_center"), rng.random((3, 3, 2, 5))),
    }
    for name in ("best_rank", "value_information", "code_information"):
        variables[f"{name}_by_seed"] = (("seed", "neuron"), rng.random((3, 12)))
    found = xr.Dataset(
        variables,
        {
            "site": ["a", "b"],
            "label": ("site", ["a-relu", "b-relu"]),
            "seed": [0, 1, 2],
            "percentile_rank": [0, 30, 60, 90],
            "window_center": [10, 30, 50, 70, 90],
            "source": ["trained", "untrained", "projection"],
            "neuron_site": ("neuron", ["a"] * 6 + ["b"] * 6),
            "neuron_index": ("neuron", [*range(6)] * 2),
        },
    )
    return store.selectable(found)


def test_curves_are_means_over_seeds_with_their_range_as_a_band(codes):
    windows = codes.drop_vars("accuracy_by_seed").rename(accuracy_by_seed_windows="accuracy_by_seed")
    for figure, curve, x in (
        (figures.quantization(codes), codes.accuracy_by_seed, "percentile_rank"),
        (figures.binarization(windows), windows.accuracy_by_seed.sel(source="trained"), "window_center"),
    ):
        panel = figure.axes[1]
        drawn = next(line for line in panel.lines if len(line.get_xdata()) == curve.sizes[x])
        np.testing.assert_allclose(drawn.get_ydata(), curve.sel(site="b").mean("seed"))
        assert len(panel.collections) == 3  # a band for each curve
        band = panel.collections[0].get_paths()[0].vertices[:, 1]
        assert band.max() == pytest.approx(float(curve.sel(site="b").max()))
        figure.canvas.draw()
        assert all(axes.get_ylabel() for axes in figure.axes)
    assert len(figures.information(codes).axes) == 4


def test_a_sweep_that_is_not_finished_draws_what_is_there(codes):
    windows = codes.drop_vars("accuracy_by_seed").rename(accuracy_by_seed_windows="accuracy_by_seed")
    windows["accuracy_by_seed"] = windows.accuracy_by_seed.where(windows.window_center % 50 > 0)
    figure = figures.binarization(windows)
    figure.canvas.draw()
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "trained neurons")
    assert curve.get_xdata().tolist() == [10, 30, 70, 90]


def test_the_same_figure_gives_the_same_files(signs, tmp_path):
    for name in ("one", "other"):
        figures.write_figure(tmp_path / name, "constancy", figures.constancy_over_training(signs))
    for kind in ("png", "svg", "pdf"):
        one, other = (tmp_path / name / "figures" / f"constancy.{kind}" for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_separation_of_many_sites_goes_on_below():
    rng, variables = np.random.default_rng(0), {}
    names = [f"layer{index}" for index in range(6)]
    for name in ("auc", "overlap"):
        variables[name] = (("partition", "wide_epoch", "neuron"), rng.random((3, 4, 30)))
    for name, parts in (("change", 4), ("variance", 3)):
        variables[name] = (("wide_epoch", f"{name}_part", "neuron"), rng.random((4, parts, 30)))
    found = xr.Dataset(
        variables,
        {
            "site": names,
            "label": ("site", [f"{name}-relu" for name in names]),
            "partition": ["own", "another neuron's", "dealt at random"],
            "wide_epoch": [0, 1, 2, 3],
            "change_part": ["translation", "scaling", "separation", "reordering"],
            "variance_part": ["start", "category", "rest"],
            "neuron_site": ("neuron", np.repeat(names, 5)),
            "neuron_index": ("neuron", [*range(5)] * 6),
        },
        {"epochs": 3},
    )
    figure = figures.separation(store.selectable(found))
    figure.canvas.draw()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 4 * 6
    titles = [axes.get_title() for axes in shown if axes.get_title()]
    assert sorted(titles) == [f"{name}-relu, 5 neurons" for name in names]
    assert figure.get_size_inches()[0] < 15
    for index, name in enumerate(names):  # each in the column below its title
        top = next(axes for axes in shown if axes.get_title().startswith(name))
        own = top.lines[0].get_ydata()
        np.testing.assert_allclose(own, np.median(found.auc.values[0, :, 5 * index : 5 * index + 5], axis=1))
    assert all(axes.get_xlim() == (0, 3) for axes in shown)


def test_composites_have_a_row_a_network_and_a_column_a_site(signs, codes):
    wider = signs.assign_attrs(signs.attrs)
    figure = figures.composite("figure5", {"one": signs, "other": wider})
    assert len(figure.axes) == 4
    heights = [bar.get_height() for bar in figure.axes[2].patches]
    np.testing.assert_array_equal(heights, signs.neuron_histogram.sel(neuron_site="a").sum("neuron_index"))
    assert figure.axes[2].get_ylabel().startswith("other\n")
    fewer = codes.isel(site=[0])
    figure = figures.composite("figure3", {"two": codes, "one": fewer})
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]


def test_one_colour_has_one_meaning():
    from neuron_mech.paper.figures import styles

    named = (styles.HIGH, styles.LOW, styles.PICKED, styles.MEASURED, *styles.CONTROLS, styles.PALE)
    assert len({color.lower() for color in named}) == len(named)
    sites = [styles.site_color(index, 12) for index in range(12)]
    assert len(set(sites)) == 12
    assert not {color.lower() for color in named} & set(sites)
    light = [sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in sites]
    assert light == sorted(light), "from dark to light"
