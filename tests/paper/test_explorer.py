"""The explorer's bytes hold what the result files say, and in a browser it answers what it is asked."""

import gzip
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import neuron_mech
from browsers import page_of
from neuron_mech.paper import claims, explorer
from neuron_mech.paper.figures import saving
from neuron_mech.recording import separation


def unpacked(packed: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """(header, arrays), read as the page reads them."""
    whole = gzip.decompress(packed)
    length = int.from_bytes(whole[:4], "little")
    header, body = json.loads(whole[4 : 4 + length]), whole[4 + length :]
    arrays = {}
    for name, place in header["arrays"].items():
        count = int(np.prod(place["shape"]))
        assert (4 + length + place["at"]) % 8 == 0
        arrays[name] = np.frombuffer(body, place["type"], count, place["at"]).reshape(place["shape"])
    return header, arrays


@pytest.fixture(scope="module")
def found(reproduced):
    header, arrays = unpacked(explorer.packed(reproduced, claims.findings(reproduced)))
    return header, arrays, neuron_mech.load(reproduced)


def test_its_signs_are_those_of_the_run(found):
    header, arrays, run = found
    assert [site["name"] for site in header["sites"]] == ["dense1", "dense2"]
    row = len(header["sites"][0]["neurons"]) + 17
    stored = run["average_signs"].average_sign.sel(neuron_site="dense2", neuron_index=17).values
    shown = arrays["signs"][row]
    np.testing.assert_allclose(
        np.where(shown == explorer.MISSING, np.nan, shown / 100), stored[: len(shown)], atol=1e-6
    )
    assert header["samples"] == run["average_signs"].sample.values[: explorer.SAMPLES].tolist()
    constancy = run["gradient_signs"].neuron_constancy.sel(neuron_site="dense2", neuron_index=17).item()
    assert arrays["neuron_constancy"][row] == pytest.approx(constancy)
    shares = run["class_consistency"].low_share.sel(neuron_site="dense2", neuron_index=17).values
    np.testing.assert_allclose(arrays["low_share"][row], shares, rtol=1e-6)


def test_its_separation_and_codes_are_those_of_the_run(found):
    header, arrays, run = found
    row = len(header["sites"][0]["neurons"]) + 5
    at = {"neuron_site": "dense2", "neuron_index": 5}
    auc = run["learning_dynamics"].auc.sel(partition="own", **at).values
    np.testing.assert_allclose(arrays["auc"][row], auc, rtol=1e-6)
    counts = run["learning_dynamics"].value_histogram.sel(**at).values
    np.testing.assert_array_equal(
        arrays["values"][row], np.round(255 * counts / counts.max(axis=(1, 2), keepdims=True))
    )
    rank = run["quantization"].best_rank_by_seed.isel(seed=0).sel(**at).item()
    assert arrays["best_rank"][row] == pytest.approx(rank)
    windows = header["sites"][1]["windows"]
    expected = run["binarization"].accuracy_by_seed.sel(site="dense2", source="trained").mean("seed").values
    np.testing.assert_allclose(windows["accuracy"]["trained"], expected, atol=1e-4)


def test_histograms_of_values_count_every_sample_once():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 500, 4)).astype(np.float32)
    category = rng.integers(-1, 2, (500, 4))
    found = separation.of_values(values, category)
    counts, (low, high) = found["value_histogram"][1], found["value_range"][1]
    assert counts.shape == (3, 2, separation.VALUE_BINS, 4)
    for index, sign in enumerate((1, -1)):
        np.testing.assert_array_equal(counts[:, index].sum(1), np.tile((category == sign).sum(0), (3, 1)))
    edges = np.linspace(low[2], high[2], separation.VALUE_BINS + 1)
    inside = np.clip(values[1, category[:, 2] == 1, 2], edges[0], edges[-1])
    assert np.abs(np.histogram(inside, edges)[0] - counts[1, 0, :, 2]).sum() <= 2  # a value on an edge, in float32
    odd = values.copy()
    odd[..., 1], odd[2, 7, 3] = 1.5, np.nan  # always the same; once no number
    found = separation.of_values(odd, category)
    same = found["value_histogram"][1]
    np.testing.assert_array_equal(same[..., [0, 2]], counts[..., [0, 2]])
    np.testing.assert_array_equal(same[:, :, 0, 1], counts[..., 1].sum(2))
    assert not same[..., 3].any()
    assert np.isnan(found["value_range"][1][:, 3]).all()


def test_a_contact_sheet_holds_every_image_in_its_place():
    images = np.random.default_rng(1).integers(0, 17, (53, 3, 2, 1)).astype(np.uint8)
    sheet = saving.contact_sheet(images, 16)
    assert sheet.shape == (2 * 3, saving.COLUMNS * 2, 1)
    np.testing.assert_array_equal(sheet[3:6, 4:6], (images[52].astype(int) * 255 + 8) // 16)
    assert not sheet[3:, 6:].any()


def test_the_picture_of_the_samples_is_of_these_samples(reproduced, found, digits):
    header, _, _ = found
    with Image.open(reproduced / "figures" / "samples.png") as picture:
        pixels = np.asarray(picture)
    one = np.asarray(digits.train.images[jnp.asarray(header["samples"][61])])[..., 0]
    np.testing.assert_array_equal(pixels[8:16, 88:96], (one.astype(int) * 255 + 8) // 16)


@pytest.mark.parametrize("lost", ["learning_dynamics.nc", "binarization.nc", "figures/samples.png", "average_signs.nc"])
def test_what_is_missing_is_left_out(browser, reproduced, tmp_path, lost):
    directory = tmp_path / "digits"
    shutil.copytree(reproduced, directory, ignore=shutil.ignore_patterns("checkpoints*", "trajectories", "videos"))
    (directory / lost).unlink()
    page = explorer.html(directory, claims.findings(directory))
    if lost == "average_signs.nc":
        assert page is None
        return
    header, arrays = unpacked(explorer.packed(directory, claims.findings(directory)))
    assert ("auc" in arrays) == (lost != "learning_dynamics.nc")
    assert (header["sheet"] is None) == (lost == "figures/samples.png")
    assert any("windows" in site for site in header["sites"]) == (lost != "binarization.nc")
    (directory / "explorer.html").write_text(page, encoding="utf-8")
    with page_of(browser, directory / "explorer.html") as (page, said, _):
        page.wait_for_selector("#title:not(:empty)")
        page.keyboard.press("ArrowRight")
        assert page.locator("#learning-part").is_visible() == (lost != "learning_dynamics.nc")
    assert said == []


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_three_clicks_say_which_images_a_neuron_pushes_down_and_since_when(browser, reproduced, found, width, scheme):
    _, _, run = found
    average = run["average_signs"].average_sign.sel(neuron_site="dense2", neuron_index=17)
    with page_of(browser, reproduced / "explorer.html", width, scheme) as (page, said, asked):
        page.wait_for_selector("#title:not(:empty)")
        page.get_by_role("button", name="dense2-relu").click()
        page.locator("#neuron").click()
        page.locator("#neuron").fill("17")
        page.keyboard.press("Enter")
        assert page.locator("#title").inner_text() == "Neuron 17 of dense2-relu"
        assert f"it pushes {int((average > 0).sum()):,} down" in page.locator("#said").inner_text()
        shown = [int(button.get_attribute("data-sample")) for button in page.locator("#low button").all()]
        values = average.values[shown]
        assert (values > 0).all()
        assert (np.diff(values) <= 1e-6).all()
        assert values[0] == np.nanmax(average.values)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("location.hash") == "#dense2:17"
    assert said == []
    assert [url[:5] for url in asked if not url.startswith("data:")] == ["file:"]


def test_the_list_the_slider_and_the_keyboard(browser, reproduced, found):
    _, _, run = found
    with page_of(browser, reproduced / "explorer.html") as (page, said, _):
        page.wait_for_selector("#title:not(:empty)")
        page.get_by_role("button", name="dense1-relu").click()
        page.locator("#order").select_option("constant")
        constancy = run["gradient_signs"].neuron_constancy.sel(neuron_site="dense1")
        most = int(constancy.neuron_index[np.argmax(constancy.values)])
        assert page.locator("#title").inner_text() == f"Neuron {most} of dense1-relu"
        page.locator("#list").focus()
        page.keyboard.press("ArrowDown")
        second = int(constancy.neuron_index[np.argsort(-constancy.values, kind="stable")[1]])
        assert page.locator("#title").inner_text() == f"Neuron {second} of dense1-relu"
        page.keyboard.press("ArrowLeft")
        assert page.locator("#title").inner_text() == f"Neuron {most} of dense1-relu"
        before, end = page.locator("#when").inner_text(), page.evaluate("document.getElementById('values').toDataURL()")
        page.locator("#time").focus()
        page.keyboard.press("Home")
        assert page.locator("#when").inner_text() != before
        assert page.locator("#when").inner_text().startswith("at epoch 0.0")
        assert page.evaluate("document.getElementById('values').toDataURL()") != end
        page.locator("#order").select_option("low3")
        low = run["class_consistency"].low_share.sel(neuron_site="dense1", label=3)
        assert low.sel(neuron_index=int(page.locator("#neuron").input_value())).item() == low.max().item()
    assert said == []


def test_one_image_in_all_neurons(browser, reproduced, found):
    header, arrays, _ = found
    neurons = len(header["sites"][0]["neurons"])
    with page_of(browser, reproduced / "explorer.html#dense2:3") as (page, said, _):
        page.wait_for_selector("#title:not(:empty)")
        assert page.locator("#title").inner_text() == "Neuron 3 of dense2-relu"
        image = page.locator("#high button").nth(2)
        image.hover()
        sample = int(image.get_attribute("data-sample"))
        down = int((arrays["signs"][:neurons, sample] > 0).sum())
        strip = page.locator(".strip").first
        assert f"pushed down by {down} of {neurons} neurons" in strip.inner_text()
        image.click()
        strip.locator("canvas").click(position={"x": 4, "y": 4})
        assert page.locator("#title").inner_text() == "Neuron 0 of dense1-relu"
        assert f"pushed down by {down} of" in strip.inner_text(), "a click keeps the image"
    assert said == []
