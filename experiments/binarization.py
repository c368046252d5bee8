"""Where in a neuron's range does it keep what it knows? (Section 5.2; figure 4.)

At one site at a time, pre-activations inside a window of percentile ranks become 1 and all others 0, and the window
slides. These zeros and ones are read in one of two ways: all layers after the site are re-initialised and retrained on
them, or a linear probe is trained on their averages over positions. Writes figures/figure4, and binarization.nc after
every group of windows, so that a stopped sweep goes on where it was. Sites nearest to the output come first, since they
take least time. Results of other centers, seeds, sites or sources that are already in the file are kept. Controls: the
same windows on the neurons of the untrained network, and on a random projection of the input.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from experiments.command_line import Session, main
from experiments.readouts import PENALTY, Cells, Missing, Reading, probed, retrained
from neuron_mech import store, taps
from neuron_mech.cluster import processes
from neuron_mech.codes import evaluation, windowing
from neuron_mech.config import WHOLE, Config, Limits, check_once
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper import figures
from neuron_mech.runs import subjects
from neuron_mech.runs.subjects import Subject
from neuron_mech.store import variable

Kind = Literal["trained", "untrained", "projection"]
SOURCES: tuple[Kind, ...] = get_args(Kind)
"""The network's neurons; those it started with; a random projection of the input."""

Readout = Literal["retrain", "probe"]
READOUTS: dict[str, Callable[[Subject, Reading, Missing], Iterator[Cells]]] = {
    "retrain": retrained,
    "probe": probed,
}
"""How each readout computes the missing cells of the sweep from a network."""

EVERY = ("*",)
"""All recorded sites."""


@dataclass(frozen=True)
class BinarizationOptions(Reading):
    """Options of this experiment."""

    readout: Readout | None = None
    """retrain: what follows the site is trained again (not for a network that is not trained here). probe: multinomial
    logistic regression on the averages over positions. None means retrain where the network is trained here."""
    sources: tuple[Kind, ...] = SOURCES
    """Whose neurons are binarized: the trained network's, and those of two controls. Others can be added later."""
    sites: tuple[str, ...] = EVERY
    """Those of record.sites that are binarized, by name or glob. Others can be added later."""

    @property
    def reading(self) -> Readout:
        """The readout, chosen or by default."""
        return self.readout or ("retrain" if self.model.weights is None else "probe")

    @property
    def settings(self) -> dict[str, float | str]:
        """What a cell depends on beside the run: a sweep can go on only under the same settings."""
        shared: dict[str, float | str] = {"readout": self.reading, "width": self.width}
        return shared | ({"replace": self.replace} if self.reading == "retrain" else {"penalty": self.penalty})


def empty(config: Config, subject: Subject, options: BinarizationOptions) -> xr.Dataset:
    """Results with no cell finished: NaN throughout."""
    seeds = [config.train.seed + k for k in range(options.seeds)]
    sites, top = list(subject.sites), {"top": subject.dataset.top, "test_samples": len(subject.dataset.test)}
    shape = (len(SOURCES), len(seeds), len(sites), len(options.centers))
    named = figures.accuracy_name(top["top"])
    how = {"retrain": "after retraining what follows the site", "probe": "of a linear probe at the site"}
    dims, cells = "source seed site window_center", np.full(shape, np.nan)
    found = {
        "accuracy_by_seed": variable(dims, cells, f"{named} {how[options.reading]}, by window"),
        "original_accuracy_by_seed": variable("seed", np.full(len(seeds), np.nan), f"{named} of the network as it is"),
        "chance": variable("", np.nan, f"{named} of always naming what is most frequent in the test set"),
    }
    coords = {
        "source": list(SOURCES),
        "seed": seeds,
        "site": sites,
        "label": ("site", [subject.label(site) for site in sites]),
        "window_center": np.asarray(options.centers, np.float64),
    }
    return xr.Dataset(found, coords, {"preset": config.preset, **options.settings, **top})


def resumed(path: Path, fresh: xr.Dataset, options: BinarizationOptions) -> xr.Dataset:
    """`fresh` with everything that an earlier sweep finished, also for other centers and seeds."""
    if not store.exists(path):
        return fresh
    try:
        before = store.read_dataset(path)
    except store.FormatError:
        raise
    except InputError:
        aside = path.with_name("binarization.damaged.nc")
        if processes.first():
            path.replace(aside)
            print(f"{path} is damaged: moved to {aside.name}, and all its windows are read again", flush=True)
        return fresh
    for name, value in options.settings.items():
        if (there := before.attrs.get(name)) != value:
            raise InputError(
                f"{path} holds windows of {name} {there}, not {value}: remove it, or name another --run-dir"
            )
    both = {name: np.union1d(before[name], fresh[name]) for name in ("window_center", "seed")}
    kept = fresh.reindex(both)
    for name in ("accuracy_by_seed", "original_accuracy_by_seed"):
        kept[name] = before[name].reindex_like(kept[name]).assign_attrs(fresh[name].attrs)
    kept["chance"] = before.chance.assign_attrs(fresh.chance.attrs)
    return kept


def over_seeds(found: xr.Dataset) -> xr.Dataset:
    """`found` with the means over seeds: accuracy of each source, and of the unchanged network."""
    mean = found.accuracy_by_seed.mean("seed", keep_attrs=True)
    named = found.assign(original_accuracy=found.original_accuracy_by_seed.mean("seed", keep_attrs=True))
    for kind in SOURCES:
        name = "accuracy" if kind == "trained" else f"{kind}_accuracy"
        named[name] = mean.sel(source=kind, drop=True)
    return named


def sweep(
    subject: Subject,
    found: xr.Dataset,
    path: Path,
    options: BinarizationOptions,
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Compute the missing cells of one seed in `found`, in place; save after every group, and call `saved`."""
    seed, dataset = subject.config.train.seed, subject.dataset
    if np.isnan(found.original_accuracy_by_seed.sel(seed=seed)):
        original, chance = evaluation.as_it_is(
            subject.model, subject.variables, subject.sites, dataset.test, dataset.classes, dataset.top
        )
        found.original_accuracy_by_seed.loc[{"seed": seed}] = original
        found.chance[...] = chance
    cells = found.accuracy_by_seed.sel(seed=seed, window_center=list(options.centers))
    named = taps.select(subject.sites, options.sites, "--sites")
    missing: Missing = {
        (kind, site): left
        for site in reversed(list(subject.sites))
        if site in named
        for kind in options.sources
        if len(left := np.flatnonzero(np.isnan(cells.sel(source=kind, site=site))))
    }
    if missing:
        for kind, site, windows, accuracy in READOUTS[options.reading](subject, options, missing):
            at = {"source": kind, "seed": seed, "site": site, "window_center": np.take(options.centers, windows)}
            found.accuracy_by_seed.loc[at] = accuracy
            store.write_dataset(path, over_seeds(found))
            saved()
    shutil.rmtree(subject.directory / "features", ignore_errors=True)


def summary(found: xr.Dataset) -> str:
    """Ends, middle and asymmetry of each curve and of its controls, as a table."""
    lines = [
        f"{found.attrs['preset']}: {figures.accuracy_name(found.attrs['top'])} through one window of width "
        f"{found.attrs['width']:g}, of {float(found.original_accuracy):.2%} as it is; chance {float(found.chance):.2%}",
        f"{'site':18} {'source':11} {'lowest':>8} {'at rank':>8} {'ends':>17} {'asymmetry':>10}",
    ]
    for site in found.site.values:
        for kind in SOURCES:
            curve = found["accuracy" if kind == "trained" else f"{kind}_accuracy"].sel(site=site)
            done = curve.dropna("window_center")
            if not done.size:
                continue  # not asked for, so far
            lowest = done[int(np.argmin(done.values))]
            mirrored = done.assign_coords(window_center=100 - done.window_center)
            apart = np.abs(done - mirrored)  # of the windows whose mirror image is finished too
            lines.append(
                f"{found.label.sel(site=site).item():18} {kind:11} {float(lowest):8.2%} "
                f"{float(lowest.window_center):8g} {float(done[0]):8.2%} {float(done[-1]):8.2%} "
                f"{float(apart.mean()):10.2%}"
            )
    return "\n".join(lines)


@store.step("binarization")
def experiment(session: Session[BinarizationOptions], saved: Callable[[], None] = lambda: None) -> None:
    """Sweep every seed, write the results and print their summary. `saved` is called after every group of windows."""
    options = session.options
    path = session.directory / "binarization.nc"
    if options.sites != EVERY:  # a typo is said before the network is trained
        _, recorded = subjects.outline(session.config, options.data_dir, options.workers)
        taps.select(recorded, options.sites, "--sites")
    found: xr.Dataset | None = None
    for subject in session.subjects():
        if found is None:
            found = resumed(path, empty(session.config, subject, options), options)
        sweep(subject, found, path, options, saved)
    assert found is not None
    found = over_seeds(found)
    store.write_dataset(path, found)
    figures.write_figure(session.directory, "figure4", figures.binarization(found))
    print(summary(found))


def check(options: BinarizationOptions) -> None:
    """Refuse, before anything is trained, windows and readouts that are not possible."""
    windowing.check_windows(options.centers, options.width)
    if not options.sources:
        raise InputError(f"--sources is empty: name at least one of {', '.join(SOURCES)}")
    if options.readout == "retrain" and options.model.weights is not None:
        raise InputError(
            f"--readout is retrain, but model.weights is {options.model.weights}: the network is not trained here, and "
            "has the readout probe only"
        )
    if options.reading == "probe" and options.distributed is not None:
        raise InputError(
            f"--distributed is {options.distributed}, but probes keep their features in one process: leave it out"
        )
    check_once("--sources", options.sources)
    PENALTY.check("--penalty", options.penalty)
    if options.together is not None:
        Limits(1, 1000, WHOLE).check("--together", options.together)


if __name__ == "__main__":
    main("binarization", __doc__ or "", experiment, BinarizationOptions, check)
