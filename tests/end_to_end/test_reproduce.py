"""One command to the verdict: whole, stopped, again, and on what is left of a run; its report in a browser."""

import hashlib
import json
import re
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from browsers import page_of
from experiments import report, reproduce
from few_frames import REPRODUCE
from forking import Forked, run
from neuron_mech import runs
from neuron_mech.cluster import devices
from neuron_mech.errors import InputError
from neuron_mech.paper import claims
from neuron_mech.runs import loop
from small_runs import REPRODUCED as ARGUMENTS

pytestmark = pytest.mark.long


def command(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def digest(directory: Path) -> dict[str, str]:
    """SHA-256 of everything that must not depend on how often a run was stopped."""
    files = [*directory.rglob("*.nc"), directory / "claims.json", directory / "table1.txt"]
    files += [*directory.rglob("*.png"), *directory.rglob("*.svg")]
    return {str(f.relative_to(directory)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_it_ends_in_verdicts_and_a_report(reproduced):
    entries = claims.read((reproduced / "claims.json").read_text())
    assert len(entries) == 11
    # Claims 3 and 4 are of convolutional networks, and 6 waits for what one run of three epochs cannot decide.
    assert {3, 4} <= {e["id"] for e in entries if e["verdict"] == "not tested"} <= {3, 4, 6}
    assert entries[0]["conditions"][0]["value"]["over"].startswith("one run")
    assert (reproduced / "report.html").stat().st_size > 1e5
    known = json.loads((reproduced / "provenance.json").read_text())
    assert set(known["seconds"]) == {
        *("training", "gradient_signs", "learning_dynamics", "class_consistency", "equal_displacement"),
        *("quantization", "quantization_activation", "binarization"),
    }


def test_again_it_does_nothing(reproduced, monkeypatch, capsys):
    before = {f: f.stat().st_mtime_ns for f in reproduced.rglob("*") if f.is_file() and f.name != ".lock"}
    monkeypatch.setattr(runs, "run", lambda *_: pytest.fail("it ran again"))
    monkeypatch.setattr("experiments.command_line.run", lambda *_: pytest.fail("it ran again"))
    command(monkeypatch, reproduce, *ARGUMENTS, "--run-dir", reproduced)
    assert before == {f: f.stat().st_mtime_ns for f in reproduced.rglob("*") if f.is_file() and f.name != ".lock"}
    assert "11 " in capsys.readouterr().out


def test_killed_anywhere_it_goes_on_to_the_same_bytes(reproduced, tmp_path):
    """SIGKILLs as it trains, as it draws what was learned, and in the middle of the codes."""
    directory = tmp_path / "digits"
    whole = ("-c", REPRODUCE, *ARGUMENTS, "--run-dir", directory, "--no-windows")
    for begun in ("checkpoints", "learning_dynamics.nc", "quantization.nc"):
        process = Forked(*whole)
        process.until((directory / begun).exists)
        time.sleep(0.2)
        process.kill()
        assert process.returncode == -signal.SIGKILL, f"it ended before {begun} was there, or just after"
    done = run(*whole)
    assert done.returncode == 0, done.err[-2000:]
    # The windows' sweep has a test of its own; without it three verdicts are missing.
    whole_run = digest(reproduced)
    for name in ("binarization.nc", "claims.json", "figures/figure4.png", "figures/figure4.svg"):
        whole_run.pop(name)
    assert digest(directory).items() >= whole_run.items()


CNN = ("--model.network", "cnn", "--model.depth", "None", "--model.dropout", "None", "--model.width", "0.0625")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*CNN, "--data.pixels", "9"), "positions, which do not divide 9x9 pixels: name other record.sites"),
        (("--controls", "--data.labels", "random"), "data.labels is random, but this experiment compares with"),
        (("--record.samples", "1438"), "record.samples is 1438, but digits has 1437"),
        (("--export", "x.tar"), "x.tar is no name for an export"),
    ],
)
def test_what_would_stop_it_hours_later_is_said_at_once(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(loop, "_drive", lambda *_: pytest.fail("it trained"))
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, reproduce, "digits", *arguments, "--run-dir", tmp_path / "run")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_machine_without_the_device_that_was_asked_for_is_one_line(tmp_path, monkeypatch, capsys):
    def fails():
        raise RuntimeError("Unable to initialize backend 'cuda': no driver\nmore")

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(devices.jax, "devices", fails)
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, reproduce, "digits", "--run-dir", tmp_path / "run")
    assert stop.value.code == 2
    expected = (
        "error: JAX finds no device (JAX_PLATFORMS='cuda': Unable to initialize backend 'cuda': no driver): install"
    )
    assert capsys.readouterr().err.startswith(expected)
    assert not (tmp_path / "run").exists()


def test_signs_of_a_tpu_are_audited_on_its_host_which_must_be_there_from_the_start(monkeypatch):
    def none_beside(backend=None):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setattr(devices.jax, "devices", lambda: [SimpleNamespace(platform="tpu", device_kind="TPU v5")])
    monkeypatch.setattr(devices.jax, "local_devices", lambda backend: ["cpu"])
    assert devices.named() == "1 x TPU v5 (tpu)"
    monkeypatch.setattr(devices.jax, "local_devices", none_beside)
    with pytest.raises(InputError, match=r"JAX_PLATFORMS='tpu': Unknown backend cpu\): .* such as cuda, or tpu,cpu"):
        devices.named()


def test_verdicts_so_far_come_home_before_the_windows(reproduced, tmp_path, monkeypatch):
    directory, first = tmp_path / "digits", tmp_path / "out" / "digits.zip"
    left = shutil.ignore_patterns("binarization.nc", "claims.json", "report.html")
    shutil.copytree(reproduced, directory, ignore=left)
    seen = []

    def look(*_):
        with zipfile.ZipFile(first) as archive:
            seen.extend(archive.namelist())

    monkeypatch.setattr(reproduce.binarization, "experiment", look)
    command(monkeypatch, reproduce, *ARGUMENTS, "--run-dir", directory, "--export", first, "--export-without", "*.html")
    assert {"claims.json", "parameters.npz", "quantization.nc"} <= set(seen)
    assert "report.html" not in seen


@pytest.mark.parametrize("lost", ["gradient_signs.nc", "binarization.nc", "figures", "provenance.json", "train.nc"])
def test_a_broken_run_has_a_report_of_what_is_there(reproduced, tmp_path, monkeypatch, capsys, lost):
    directory = tmp_path / "digits"
    shutil.copytree(reproduced, directory, ignore=shutil.ignore_patterns("checkpoints*", "trajectories", "videos"))
    path = directory / lost
    if path.is_dir():
        shutil.rmtree(path)
    elif lost == "binarization.nc":
        path.write_bytes(path.read_bytes()[:3000])
    elif lost == "provenance.json":
        path.write_text("{")
    else:
        path.unlink()
    command(monkeypatch, report, directory)
    said = capsys.readouterr()
    page = (directory / "report.html").read_text()
    if lost.endswith(".nc"):
        assert lost in page
        assert "not tested" in said.out
    if lost == "binarization.nc":
        assert "cannot be read" in said.err


def test_a_directory_without_a_run_is_one_line(tmp_path, monkeypatch, capsys):
    for arguments, expected in (((tmp_path,), "holds no run"), ((tmp_path / "no",), "is no directory")):
        with pytest.raises(SystemExit) as stop:
            command(monkeypatch, report, *arguments)
        assert stop.value.code == 2
        assert expected in capsys.readouterr().err


def test_two_runs_are_compared(reproduced, monkeypatch, capsys):
    command(monkeypatch, report, reproduced, "--against", reproduced)
    assert capsys.readouterr().out.count("same verdict") == 11


def test_verdicts_are_one_process_s(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, reproduce, "digits", "--run-dir", tmp_path / "run", "--distributed", "0/2@localhost:1")
    assert stop.value.code == 2
    assert "one process makes verdicts" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--run-dir", "--export"])
def test_all_of_them_at_one_place_is_refused(tmp_path, monkeypatch, capsys, option):
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, reproduce, "all", option, tmp_path)
    assert stop.value.code == 2
    assert "one a preset" in capsys.readouterr().err


def test_all_leaves_out_what_has_no_data_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "PRESETS", {"mnist-relu": None, "cifar10-relu": None})
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, reproduce, "all", "--data-dir", tmp_path)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "left out: mnist-relu" in said
    assert "left out: cifar10-relu" in said


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_report_is_whole_in_a_browser(browser, reproduced, width, scheme):
    with page_of(browser, reproduced / "report.html", width, scheme) as (page, said, asked):
        page.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager'; })")
        page.wait_for_function("[...document.images].every(i => i.complete)")
        images = page.evaluate(
            "[...document.images].filter(i => i.id !== 'large').map(i => [i.naturalWidth > 0, i.alt.length > 40])"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("li h3").count() == 11
        assert page.locator("dt").count() == 8
        first = page.locator("video, figure img").first.bounding_box()
        assert first["y"] + first["height"] / 2 < 900, "a picture on the first screen"
        page.locator("details summary").first.click()
        assert page.locator("details[open] table").first.is_visible()
        contrast = page.evaluate(CONTRAST)
        page.locator("a.large").first.click()
        assert page.locator("#enlarged").is_visible()
        page.keyboard.press("Escape")
        assert page.locator("#enlarged").is_hidden()
        table = page.evaluate("fetch(document.querySelector('a[download]').href).then(found => found.text())")
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
    assert said == []
    assert [url[:5] for url in asked if not url.startswith("data:")] == ["file:"]
    assert len(images) > 10
    assert all(loaded and described for loaded, described in images)
    assert min(contrast) >= 4.5  # WCAG AA
    assert table.startswith("site,bin,histogram\n")
    assert (reproduced / "report.html").stat().st_size < 10_000_000


def test_what_is_optional_raises_no_alarm(reproduced):
    page = (reproduced / "report.html").read_text()
    assert "Not everything is here" not in page
    assert "Optional, and not done here: <code>python -m experiments.controls digits</code>" in page


def test_atlases_are_sorted_as_people_count(reproduced):
    page = (reproduced / "report.html").read_text()
    shown = [int(number) for number in re.findall(r"<figcaption>atlas dense2 (\d+)", page)]
    assert len(shown) > 1
    assert shown == sorted(shown)


CONTRAST = """() => {
  const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => { x /= 255;
    return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const behind = e => { while (e) { const c = getComputedStyle(e).backgroundColor;
    if (!/rgba\\(.*, 0\\)/.test(c)) return c; e = e.parentElement; } return 'rgb(255,255,255)'; };
  return [...document.querySelectorAll('p, li, h1, h2, h3, dt, dd, td, th, summary, a, figcaption, .mark')].map(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05); }); }"""
"""The contrast of every text with what is behind it, by the formula of the Web Content Accessibility Guidelines."""
