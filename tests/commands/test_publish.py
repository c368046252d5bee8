"""The pages' verdicts are those of results/, and what is published is small and says where it comes from."""

import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from experiments.publish import command as publish
from experiments.publish import conditions, shrinking, tables
from neuron_mech import store
from neuron_mech.config import PRESETS
from neuron_mech.errors import InputError


@pytest.mark.parametrize(("name", "short"), publish.PAGES.items())
def test_the_pages_are_current(name, short):
    page = (publish.ROOT / name).read_text()
    made = publish.verdicts(publish.ROOT / "results", short)
    assert page == publish.with_table(page, made), "run `python -m experiments.publish`"
    made, *of_questions = made.split("The paper's [open questions]")
    for claim in ("12a. ", "13. ", "14. ", "15. "):
        assert f"\n| {claim}" in of_questions[0]
    rows = [line.split(" | ") for line in made.splitlines() if line.startswith("| ")]
    assert {len(row) for row in rows} == {1 + len(list((publish.ROOT / "results").glob("*/claims.json")))}


def test_the_page_of_conditions_is_current_and_has_each_once():
    page = (publish.ROOT / publish.CONDITIONS).read_text()
    found = publish.in_order(publish.ROOT / "results") | publish.of_questions(publish.ROOT / "results")
    assert page == conditions.page(found), "run `python -m experiments.publish`"
    rows = [line for line in page.splitlines() if line.startswith("| [")]
    assert len(rows) == sum(max(len(entry["conditions"]), 1) for entries in found.values() for entry in entries)
    assert {row.count(" | ") for row in rows} == {7}


def test_a_condition_is_shown_in_its_unit_with_its_nulls():
    estimate = {"value": 0.7758, "low": 0.7714, "high": 0.7803, "seeds": 5}
    ahead = {"value": -0.045, "low": -0.055, "high": -0.035}
    condition = {
        **{"site": "dense2-relu", "what": "share |a|", "value": estimate, "relation": ">", "threshold": 0.5},
        **{"unit": "%", "scope": "paper", "holds": "yes"},
        "nulls": [
            {"name": "shown", "value": None, "ahead": None, "decides": False},
            {"name": "deciding", "value": 0.8167, "ahead": ahead, "decides": True},
        ],
    }
    assert conditions.row("digits", condition) == (
        "| [digits](../../results/digits/claims.json) | dense2-relu | share \\|a\\| | 77.6 % (77.1 to 78.0), 5 seeds "
        "| > 50.0 % | ✓ | deciding: 81.7 %<br>shown: ? | -4.5 points (-5.5 to -3.5)<br> |"
    )
    assert conditions.interval(estimate | {"low": None}, "ranks") == "0.8 ranks (open)"


def test_a_run_is_published_small_and_with_its_origin(reproduced, tmp_path):
    publish.publish(reproduced, tmp_path)
    place = tmp_path / "digits"
    assert (place / "claims.json").read_text() == (reproduced / "claims.json").read_text()
    run = json.loads((place / "run.json").read_text())
    assert run["seeds"] == [0]
    assert "--train.epochs 3" in run["command"]
    assert run["versions"]["jax"]
    assert run["seconds"]["binarization"] > 0
    for figure in place.glob("*.png"):
        assert figure.stat().st_size < (reproduced / "figures" / figure.name).stat().st_size
        assert figure.stat().st_size < 150_000
    assert {"figure3.png", "figure4.png", "figure5.png", "figure8.png"} <= {f.name for f in place.iterdir()}
    assert (place / "average_signs.nc").read_bytes() == (reproduced / "average_signs.nc").read_bytes()
    written = (place / "README.md").read_text()
    assert written.count("\n## ") == 9  # all but the controls, which were not run
    signs = store.read_dataset(reproduced / "gradient_signs.nc")
    assert f"| dense2-relu | {100 * signs.constancy.sel(site='dense2').item():.1f} % | " in written
    made = publish.table(tmp_path)
    assert made.count("\n| ") == 13
    assert "`train.epochs 3`" in made
    assert "`digits`" in made
    assert publish.with_table(f"a\n{publish.BEGIN}old\n{publish.END}b\n", made) == (
        f"a\n{publish.BEGIN}{made}{publish.END}b\n"
    )


def test_tables_have_the_mean_of_the_seeds_with_the_lowest_and_the_highest():
    assert tables.over([0.5, 0.7, np.nan, 0.63], "%") == "61.0 % (50.0–70.0)"
    assert tables.over([1.234], "") == "1.23"
    assert tables.over([np.nan], "%") == "–"


def test_average_signs_that_are_large_are_left_out_and_that_is_said(reproduced, tmp_path, monkeypatch, capsys):
    publish.publish(reproduced, tmp_path)
    monkeypatch.setattr(publish, "LARGEST_SIGNS", 50_000)
    publish.publish(reproduced, tmp_path)
    assert not (tmp_path / "digits" / "average_signs.nc").exists()
    assert re.search(
        r"left out: .*average_signs.nc has 0\.\d MB, more than the 0.05 MB published", capsys.readouterr().out
    )


def test_a_smaller_figure_keeps_the_colours_of_thin_lines(reproduced):
    path = reproduced / "figures" / "figure4.png"
    with Image.open(path) as image:
        whole = image.convert("RGB")
        whole.thumbnail((shrinking.WIDTH, 10 * shrinking.WIDTH), Image.Resampling.LANCZOS)
    with Image.open(io.BytesIO(publish.smaller(path))) as image:
        few = image.convert("RGB")
    assert few.size == whole.size
    assert np.abs(np.asarray(few, int) - np.asarray(whole, int)).max() < 40


def test_the_command_repeats_what_differs_from_the_preset():
    config = PRESETS["mnist-relu"]
    config = replace(config, record=replace(config.record, sites=("dense1", "dense2"), every=20))
    assert publish.command(config, 5) == (
        "python -m experiments.reproduce mnist-relu --record.every 20 --record.sites dense1 dense2 --seeds 5"
    )
    assert publish.changes(publish.command(config, 5)) == "`record.every 20`, `record.sites dense1 dense2`"
    assert publish.changes(publish.command(PRESETS["digits"], 5)) == "–"


def test_a_run_without_verdicts_is_refused(reproduced, tmp_path):
    shutil.copy(reproduced / "config.json", tmp_path)
    with pytest.raises(InputError, match=r"has no claims.json"):
        publish.publish(tmp_path, tmp_path / "results")
    with pytest.raises(InputError, match="no place for the verdicts"):
        publish.with_table("nothing", "table")
