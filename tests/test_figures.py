"""Figures show the data they were given."""

import numpy as np
import pytest
import xarray as xr

from neuron_mech import figures, gradient_signs, results


@pytest.fixture
def signs():
    center = (gradient_signs.BIN_EDGES[:-1] + gradient_signs.BIN_EDGES[1:]) / 2
    histogram = np.arange(2 * 3 * 20).reshape(2, 3, 20)
    variables = {
        "constancy": ("site", [0.25, 0.75]),
        "random_neuron": ("site", [2, 0]),
        "constancy_so_far": (("site", "epoch"), [[0.2, 0.3], [0.7, 0.8]]),
        "constancy_by_phase": (("site", "phase"), [[0.2, np.nan], [0.6, 0.8]]),
        "saturation_epoch": ((), -1),
        "objective_constancy": (("objective", "site"), [[0.1, 0.2], [0.3, 0.4]]),
        "zero_share": (("objective", "site"), [[0.0, 0.0], [0.0, 0.0]]),
        "train_accuracy": ("epoch", [0.8, 0.9]),
        "test_accuracy": ("epoch", [0.7, 0.8]),
    }
    for index, site in enumerate(("a", "b")):
        variables[f"neuron_histogram_{site}"] = ((f"neuron_{site}", "average_sign"), histogram[index])
        variables[f"neuron_constancy_{site}"] = (f"neuron_{site}", [0.1, 0.2, 0.3])
    return xr.Dataset(
        variables,
        {
            "site": ["a", "b"],
            "label": ("site", ["a-relu", "b-relu"]),
            "epoch": [1, 2],
            "phase": ["before", "after"],
            "average_sign": center,
            "objective": ["margin", "keras2017"],
            "neuron_a": [0, 1, 2],
            "neuron_b": [0, 1, 2],
        },
        {"saturation": 0.99},
    )


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
    counts = signs.neuron_histogram_a
    np.testing.assert_array_equal(heights, counts[2] if one_neuron else counts.sum("neuron_a"))
    assert "30% constant" in [t.get_text() for t in panels[0].texts] or not one_neuron


def test_every_panel_has_labelled_axes(signs):
    for figure in (
        figures.average_sign_histograms(signs),
        figures.constancy_over_training(signs),
        figures.objectives(signs),
    ):
        figure.canvas.draw()
        assert all(axes.get_ylabel() for axes in figure.axes)


def test_the_same_figure_gives_the_same_files(signs, tmp_path):
    for name in ("one", "other"):
        results.write_figure(tmp_path / name, "constancy", figures.constancy_over_training(signs))
    for kind in ("png", "svg"):
        one, other = (tmp_path / name / "figures" / f"constancy.{kind}" for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()
