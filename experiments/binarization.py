"""Where in a neuron's range does it keep what it knows? (Section 5.2; figure 4.)

At one site at a time, pre-activations inside a window of percentile ranks become 1 and all others 0; all that follows
the site is re-initialised and retrained on that, and the window slides. Writes binarization.nc after every cell of the
sweep, so that a sweep that was stopped goes on where it was, and figures/figure4. Controls: the same windows on the
neurons of the untrained network, and on a random projection of the input.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from tqdm import tqdm

from experiments.command_line import Options, Seeded, Session, main
from neuron_mech import binarization, figures, results, retraining, sources, training
from neuron_mech.errors import InputError
from neuron_mech.presets import Derivative, random_stream
from neuron_mech.runs import Run
from neuron_mech.sources import Source

Kind = Literal["trained", "untrained", "projection"]
SOURCES: tuple[Kind, ...] = get_args(Kind)
"""The network's neurons; those it started with; a random projection of the input."""


@dataclass(frozen=True)
class BinarizationOptions(Seeded):
    """Options of this experiment."""

    centers: tuple[float, ...] = tuple(range(5, 100, 10))
    """Percentile ranks at the windows' centers."""
    width: float = 10.0
    """Width of a window, in percentile ranks; windows at the ends are open-ended."""
    together: int | None = None
    """Windows retrained in one program. None means all on a GPU or TPU where no convolution follows the site, and one
    otherwise: on a CPU ten together are a sixth faster, but what is not finished is lost when the sweep is stopped."""
    sources: tuple[Kind, ...] = SOURCES
    """What the windows look at: the trained network, and two controls. What is left out can be added later."""
    replace: Derivative = "pre_activation"
    """What zeros and ones take the place of: the pre_activation, so that the activation function still applies to
    them, or the activation itself. The same for ReLU; a sigmoid makes 0.5 and 0.73 of them, and learns badly."""


def windows_together(options: BinarizationOptions, convolutional: bool) -> int:
    """How many windows are retrained in one program: as asked, or all on an accelerator and one on a CPU.

    On two CPU cores ten together take a sixth less time than ten apart (`experiments.benchmark`), but apart no more
    than one is lost when the sweep is stopped. Convolutions are trained apart everywhere: mapped over their kernels
    they become one grouped convolution, which can be slow.
    """
    return options.together or (1 if convolutional or jax.default_backend() == "cpu" else len(options.centers))


def source_of(kind: str, run: Run, site: str) -> Source:
    """The pre-activations at a site from one of SOURCES."""
    study, one = run.study, run.dataset.test.rows(np.arange(1))
    if kind == "projection":
        key = random_stream(study.config.train.seed, f"projection to {site}")
        height, width, channels = one.images.shape[1:]
        return sources.projection(key, (height, width, channels), study.sites[site])
    trained = run.state.train.variables
    variables = trained if kind == "trained" else training.init(study.config, study.model, one).variables
    return sources.network(study.model, variables, study.sites[site])


def empty(run: Run, options: BinarizationOptions) -> xr.Dataset:
    """Results with no cell finished: NaN throughout."""
    config = run.study.config
    seeds = [config.train.seed + k for k in range(options.seeds)]
    sites = list(run.study.sites)
    shape = (len(SOURCES), len(seeds), len(sites), len(options.centers))
    majority = np.bincount(np.asarray(run.dataset.test.labels)).max() / len(run.dataset.test)
    about = {"units": "1", "description": "test accuracy after retraining what follows the site, by window"}
    return xr.Dataset(
        {
            "accuracy_by_seed": (("source", "seed", "site", "window_center"), np.full(shape, np.nan), about),
            "original_accuracy_by_seed": (
                "seed",
                np.full(len(seeds), np.nan),
                {"units": "1", "description": "test accuracy of the network as it is"},
            ),
            "chance": ((), majority, {"units": "1", "description": "share of the test set's most frequent label"}),
        },
        {
            "source": list(SOURCES),
            "seed": seeds,
            "site": sites,
            "label": ("site", [run.study.label(site) for site in sites]),
            "window_center": np.asarray(options.centers, np.float64),
        },
        {"preset": config.preset, "width": options.width, "replace": options.replace},
    )


def resumed(path: Path, fresh: xr.Dataset) -> xr.Dataset:
    """`fresh` with every cell that an earlier sweep of the same windows has finished."""
    if not results.exists(path):
        return fresh
    before = results.read_dataset(path)
    for name in ("width", "replace"):
        if before.attrs.get(name) != fresh.attrs[name]:
            raise InputError(
                f"{path} holds windows of {name} {before.attrs.get(name)}, not {fresh.attrs[name]}: remove it, or name "
                "another --run-dir"
            )
    kept = fresh.copy(deep=True)
    kept["accuracy_by_seed"] = before.accuracy_by_seed.reindex_like(fresh.accuracy_by_seed).assign_attrs(
        fresh.accuracy_by_seed.attrs
    )
    return kept


def over_seeds(found: xr.Dataset) -> xr.Dataset:
    """The contract's variables, means over seeds, beside what each seed gave."""
    mean = found.accuracy_by_seed.mean("seed", keep_attrs=True)
    named = found.assign(original_accuracy=found.original_accuracy_by_seed.mean("seed", keep_attrs=True))
    for kind in SOURCES:
        name = "accuracy" if kind == "trained" else f"{kind}_accuracy"
        named[name] = mean.sel(source=kind, drop=True)
    return named


def sweep(run: Run, found: xr.Dataset, path: Path, options: BinarizationOptions) -> None:
    """Finish the cells of one seed in `found`, in place, saving after every group of windows."""
    study, seed = run.study, run.study.config.train.seed
    cells = found.accuracy_by_seed.sel(seed=seed)
    epochs = study.config.train.epochs
    total = int(np.isnan(cells.sel(source=list(options.sources))).sum()) * epochs
    with tqdm(total=total, desc=f"windows, seed {seed}", unit="epoch") as bar:
        for site in study.sites:
            one = run.dataset.train.rows(np.arange(1))
            variables = run.state.train.variables
            cut = retraining.cut(study.config, study.model, variables, one, study.sites[site], options.replace)
            retrain, together = retraining.Retraining(cut), windows_together(options, cut.convolutional)
            for kind in options.sources:
                missing = np.flatnonzero(np.isnan(cells.sel(source=kind, site=site)))
                if not len(missing):
                    continue
                source = source_of(kind, run, site)
                stream = random_stream(seed, f"windows of {kind} {site}")
                values, _ = sources.chosen_values(source, run.dataset.train, stream)
                windows = binarization.at_centers(values, options.centers, options.width)
                look = retraining.binarizer(source)
                for start in range(0, len(missing), together):
                    group = missing[start : start + together]
                    bar.set_postfix_str(f"{site} {kind} {', '.join(f'{options.centers[i]:g}' for i in group)}")
                    chosen = jax.tree.map(lambda leaf, group=group: leaf[group], windows)
                    train, test = look(chosen, run.dataset.train), look(chosen, run.dataset.test)
                    accuracy = retrain(train, test, partial(bar.update, len(group)))
                    found.accuracy_by_seed.loc[
                        {"source": kind, "seed": seed, "site": site, "window_center": found.window_center[group]}
                    ] = accuracy
                    results.write_dataset(path, over_seeds(found))


def summary(found: xr.Dataset) -> str:
    """Ends, middle and symmetry of each curve, and its controls'."""
    lines = [
        f"{found.attrs['preset']}: accuracy through one window of width {found.attrs['width']:g}, of "
        f"{float(found.original_accuracy):.2%} as it is; chance {float(found.chance):.2%}",
        f"{'site':18} {'source':11} {'lowest':>8} {'at rank':>8} {'ends':>17} {'asymmetry':>10}",
    ]
    for site in found.site.values:
        for kind in SOURCES:
            curve = found["accuracy" if kind == "trained" else f"{kind}_accuracy"].sel(site=site)
            values = curve.values
            if np.isnan(values).any():
                continue  # not asked for, so far
            lowest = int(values.argmin())
            lines.append(
                f"{found.label.sel(site=site).item():18} {kind:11} {values[lowest]:8.2%} "
                f"{float(curve.window_center[lowest]):8g} {values[0]:8.2%} {values[-1]:8.2%} "
                f"{np.abs(values - values[::-1]).mean():10.2%}"
            )
    return "\n".join(lines)


def experiment(session: Session) -> None:
    """Sweep every seed, write the results and print their summary."""
    options = session.options
    assert isinstance(options, BinarizationOptions)
    path = session.directory / "binarization.nc"
    found: xr.Dataset | None = None
    for run in session.seeds():
        if found is None:
            found = resumed(path, empty(run, options))
        accuracy = jax.jit(lambda v, s, model=run.study.model: training.accuracy(model, v, s))
        original = accuracy(run.state.train.variables, run.dataset.test)
        found.original_accuracy_by_seed.loc[{"seed": run.study.config.train.seed}] = float(jnp.asarray(original))
        sweep(run, found, path, options)
    assert found is not None
    found = over_seeds(found)
    results.write_dataset(path, found)
    results.write_figure(session.directory, "figure4", figures.binarization(found))
    print(summary(found))


def check(options: Options) -> None:
    """Refuse windows that are none before anything is trained."""
    assert isinstance(options, BinarizationOptions)
    binarization.check_windows(options.centers, options.width)
    if not options.sources:
        raise InputError(f"--sources is empty: name at least one of {', '.join(SOURCES)}")
    if options.together is not None and options.together < 1:
        raise InputError(f"--together is {options.together}: give a whole number of at least 1")


if __name__ == "__main__":
    main("binarization", __doc__ or "", experiment, BinarizationOptions, check)
