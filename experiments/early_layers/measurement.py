"""What early_layers.nc holds: the parts of the experiment, each computed once and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.early_layers import interventions
from experiments.early_layers.recording import SOURCES, Recorded, ordinary
from experiments.open_questions import options as shared
from experiments.open_questions.network import Layers
from experiments.open_questions.options import Options, described
from neuron_mech import taps
from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import auditing, freezing, traces
from neuron_mech.recording.counting import CONSTANT
from neuron_mech.taps.objectives import margin
from neuron_mech.training.datasets import Dataset, Samples


@dataclass(frozen=True)
class EarlyLayers(Options):
    """Options of this experiment."""

    learning_rate: float = 0.1
    """Of plain SGD."""
    dropout: float = 0.1
    """Share of activations that dropout zeroes after each layer."""
    factors: bool = True
    """Whether the network is also changed one factor at a time."""


PRESETS = {
    "digits": EarlyLayers(epochs=30),
    "mnist": EarlyLayers(data="mnist", images=10_000, epochs=20, batch_size=100),
}

LAGS = (1, 2, 5, 10, 20, 50, 100)
"""Recordings between the two signs of an autocorrelation, where there are so many."""

AUDITED = 64
"""Samples whose signs are held against double precision."""

FACTORS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "linear": {"activation": "linear"},
    "sigmoid": {"activation": "sigmoid"},
    "batch norm": {"normalisation": "batch"},
    "running norm": {"normalisation": "running"},
    "residual": {"residual": True},
    "no dropout": {"dropout": 0.0},
    "dropout 0.5": {"dropout": 0.5},
    "width / 4": {"neurons": 0.25},
    "width x 4": {"neurons": 4},
    "depth 2": {"depth": 2},
    "depth 4": {"depth": 4},
    "depth 16": {"depth": 16},
    "linear, batch norm": {"activation": "linear", "normalisation": "batch"},
    "linear, residual": {"activation": "linear", "residual": True},
    "batch norm, residual": {"normalisation": "batch", "residual": True},
    "linear, batch norm, residual": {"activation": "linear", "normalisation": "batch", "residual": True},
}
"""Networks of the grid: one factor at a time, and the eight of ReLU or linear, batch norm, residual."""


NETWORKS: dict[str, dict[str, Any]] = {
    "2 layers": {"depth": 2},
    "deep": {},
    "deep, batch norm": {"normalisation": "batch"},
}
"""Networks that are trained with frozen signs: one as in the paper, and two whose first layers are far from the output.
"""

PLACES = ("first", "all")
"""Layers whose signs are frozen."""


def network(options: EarlyLayers, classes: int, changes: Mapping[str, Any]) -> Layers:
    """The network, with changes of its factors; `neurons` multiplies."""
    chosen = {"depth": options.depth, "dropout": options.dropout, **changes}
    neurons = max(1, round(options.neurons * changes.get("neurons", 1)))
    return Layers(classes=classes, **{**chosen, "neurons": neurons})


def measure(options: EarlyLayers, dataset: Dataset[Samples], directory: Path) -> xr.Dataset:
    """All parts, put together."""
    parts = [of_network(name, options, dataset, directory) for name in NETWORKS]
    found = xr.concat(parts, xr.Variable("network", list(NETWORKS)), join="outer", combine_attrs="drop_conflicts")
    # Where networks differ in layers and arms, they are put in alphabetical order.
    deepest = max(parts, key=lambda part: part.sizes["site"])
    found = found.sel(site=deepest.site, arm=parts[0].arm)
    if options.factors:
        factors = [shared.kept(directory, f"factor {name}", of_factor, name, dataset, options) for name in FACTORS]
        found = found.merge(xr.concat(factors, xr.Variable("factor", list(FACTORS))))
    return found.assign_attrs({**shared.numbers(options), "classes": dataset.classes})


def of_network(name: str, options: EarlyLayers, dataset: Dataset[Samples], directory: Path) -> xr.Dataset:
    """One of NETWORKS: its ordinary runs, and every arm."""
    model = network(options, dataset.classes, NETWORKS[name])
    whole = shared.kept(directory, f"{name} ordinary", of_ordinary, model, dataset, options)
    arms = [(arm, place) for arm in interventions.FROZEN for place in PLACES]
    arms += [(f"{arm}, contrary dropped", "all") for arm in ("own", "another seed")]
    arms.append(("signs turned", "all"))
    if model.normalisation == "none":
        # With batch statistics each mask has statistics of its own, and it is not clear what an average would be.
        arms += [(f"{masks} masks", "all") for masks in interventions.MASKS]
    accuracy = [whole.accuracy]
    for arm, place in arms:
        part = shared.kept(directory, f"{name} {arm} {place}", of_arm, arm, place, model, dataset, options, whole)
        accuracy.append(part.accuracy)
    names = ["ordinary", *(arm if place == "all" else f"{arm}, first layer only" for arm, place in arms)]
    dropped = [str(of) for of in whole.variables if str(of).startswith("categories_") or of == "accuracy"]
    return whole.drop_vars(dropped).assign(accuracy=xr.concat(accuracy, xr.Variable("arm", names)))


def of_ordinary(model: Layers, dataset: Dataset[Samples], options: EarlyLayers) -> xr.Dataset:
    """Ordinary runs: measures of traces, freeze maps, noise at two moments, accuracies, and all categories."""
    recorded = ordinary(model, dataset, options, options.learning_rate, "ordinary", categories=True)
    sites = list(recorded.traces["derivative"])
    found = of_traces(recorded).assign(of_freezing(recorded))
    if model.normalisation != "none":
        # Running averages of the weights as they are do not fit displaced ones: there the null says nothing.
        split = [name for name in found.data_vars if "source" in found[name].dims]
        found = found.assign({name: found[name].where(found.source != "null") for name in split})
        found = found.assign(frozen=found.frozen.where(found.followed != "null"))
    rng = np.random.default_rng(1)
    watched = dataset.train.rows(np.sort(rng.permutation(len(dataset.train))[:256]))
    one = jax.tree.map(lambda leaf: leaf[0], recorded.states.variables)
    of_sites = {name: at for name, at in taps.sites(model, one, dataset.train.blank.inputs).items() if name in sites}
    tqdm.write("replicas at one step, a quarter of training and its end")
    moments = {"a quarter": recorded.early, "end": recorded.states}
    common = (dataset.train, watched, options.learning_rate, options.batch_size)
    replicas = interventions.replicas(model, of_sites, moments, *common)
    values = np.array([[[by_site[site] for site in sites] for by_site in of.values()] for of in replicas.values()])
    coords = {"moment": list(moments), "replicas_of": list(replicas["end"]), "site": sites}
    ceilings = xr.DataArray(values, coords, ("moment", "replicas_of", "site", "seed"))
    found = found.assign(ceiling=ceilings)
    found.ceiling.attrs |= {"units": "1", "description": "mean product of the signs of two replicas at one step"}
    part = watched.rows(np.arange(min(AUDITED, len(watched))))
    health = auditing.sign_health(
        model, one, part.inputs, part.labels, of_sites, {"margin": margin}, margin, precision="fast"
    )["margin"]
    wrong = np.array([health[site].wrong + health[site].zeroed for site in sites])
    variables = {
        "wrong_signs": ("site", wrong, "share of float32 signs that float64 contradicts, seed 0, end of training"),
        "accuracy": (("seed", "epoch", "part"), recorded.accuracy, "share of samples that are right, by epoch"),
    }
    for moment, by_site in recorded.categories.items():
        for site, of in by_site.items():
            said = f"sign of the sum of signs: {moment}"
            variables[f"categories_{moment.replace(' ', '_')}_{site}"] = (("seed", "sample", "neuron"), of, said)
    return found.assign(described(**variables)).assign_coords(part=["train", "test"])


def of_traces(recorded: Recorded) -> xr.Dataset:
    """Measures of the traces, of the derivative and of the null N1."""
    sites, seeds = list(recorded.traces["derivative"]), len(recorded.accuracy)
    recordings = len(recorded.traces["derivative"][sites[0]][0])
    lags = [lag for lag in LAGS if lag < recordings]
    each = [
        [[_of_trace(recorded.traces[source][site][seed], lags) for seed in range(seeds)] for site in sites]
        for source in ("derivative", "null")
    ]
    dims = ("source", "site", "seed")
    said = {
        "autocorrelation": "correlation of a pair's signs some recordings apart",
        "between_windows": "correlation over pairs of average signs in two tenths of training",
        "halves": "correlation over pairs of average signs of odd and even recordings",
        "variance": "variance over pairs of the average sign",
        "noise": "part of it that odd and even recordings do not share",
        "constant": "part of it that the first and last tenth of training share",
        "drift": "the rest of it",
        "constancy": "share of pairs with |average sign| > 0.9",
        "turned": "mean share of a pair's recordings of the rarer sign",
    }
    more = {"autocorrelation": ("lag",), "between_windows": ("window", "other_window")}
    found = {
        name: (
            (*dims, *more.get(name, ())),
            np.array([[[trace[name] for trace in seeds] for seeds in by_site] for by_site in each]),
            text,
        )
        for name, text in said.items()
    }
    return xr.Dataset(
        described(**found), {"source": ["derivative", "null"], "site": sites, "lag": lags, "followed": list(SOURCES)}
    )


def _of_trace(trace: np.ndarray, lags: list[int]) -> dict[str, Any]:
    average = traces.average(trace)
    known = average[np.isfinite(average)]
    split = traces.variance_split(trace)._asdict()
    return split | {
        "autocorrelation": traces.autocorrelation(trace, lags),
        "between_windows": traces.between_windows(trace),
        "halves": traces.halves(trace),
        "constancy": (np.abs(known) > CONSTANT).mean() if len(known) else np.nan,
        "turned": ((1 - np.abs(known)) / 2).mean() if len(known) else np.nan,
    }


def of_freezing(recorded: Recorded) -> dict[str, tuple]:
    """The freeze map of derivatives, gates and the null, by site and seed."""
    sites, seeds = list(recorded.traces["derivative"]), len(recorded.accuracy)
    recordings = recorded.traces["derivative"][sites[0]].shape[1]

    def share(flips: freezing.LastFlip, seed: int) -> np.ndarray:
        return freezing.share_frozen(jax.tree.map(lambda leaf: leaf[seed], flips), recordings)

    by_site = ([recorded.flips[of][site] for site in sites] for of in SOURCES)
    frozen = np.array([[[share(flips, seed) for seed in range(seeds)] for flips in each] for each in by_site])
    stable = np.apply_along_axis(freezing.stability_time, -1, frozen)
    dims = ("followed", "site", "seed")
    return described(
        frozen=((*dims, "recording"), frozen, "share of pairs whose sign does not turn any more"),
        stable_from=(dims, stable, "recording from which 90 % of the pairs turn no more"),
    )


def of_arm(
    arm: str, place: str, model: Layers, dataset: Dataset[Samples], options: EarlyLayers, whole: xr.Dataset
) -> xr.Dataset:
    """Accuracies of an arm's runs; `whole` are the ordinary ones."""
    sites = [str(site) for site in whole.site.values]
    of = {
        moment: {site: whole[f"categories_{moment.replace(' ', '_')}_{site}"].values for site in sites}
        for moment in ("whole run", "first epoch", "first recording")
    }
    how: dict[str, Any] = {}
    frozen = arm.removesuffix(", contrary dropped")
    if frozen in interventions.FROZEN:
        chosen = interventions.frozen_to(frozen, of, np.asarray(dataset.train.labels))
        # Zeros leave a site as it is, and all arms are one program.
        categories = {s: at if place == "all" or s == sites[0] else np.zeros_like(at) for s, at in chosen.items()}
        how = {"categories": categories, "dropped": arm != frozen}
    elif arm == "signs turned":
        share = whole.turned.sel(source="derivative").mean("seed")
        how = {"categories": {}, "turned": tuple((site, float(share.sel(site=site))) for site in sites)}
    else:
        how = {"categories": {}, "masks": int(arm.split()[0])}
    accuracy = interventions.train(model, dataset, options, options.learning_rate, f"{arm}, {place}", **how)
    said = "share of samples that are right, by epoch"
    found = described(accuracy=(("seed", "epoch", "part"), accuracy, said))
    return xr.Dataset(found, {"part": ["train", "test"]})


def of_factor(factor: str, dataset: Dataset[Samples], options: EarlyLayers) -> xr.Dataset:
    """The measures of one network of the grid, at its first and last layer."""
    model = network(options, dataset.classes, FACTORS[factor])
    recorded = ordinary(model, dataset, replace(options, neurons=model.neurons), options.learning_rate, factor, False)
    at = of_traces(recorded).sel(source="derivative").isel(site=[0, -1]).drop_vars("site")
    chosen = {
        "window_reliability": at.between_windows.isel(window=0, other_window=-1),
        "halves": at.halves,
        "noise_share": at.noise / at.variance,
        "constant_share": at.constant / at.variance,
        "constancy": at.constancy,
    }
    # What a network that diverged gave before says nothing; its outputs, no numbers, are right nowhere.
    trained = xr.DataArray((recorded.accuracy[:, -1] > 0).any(-1), dims="seed")
    found = {f"factor_{name}": value.rename(site="layer").where(trained) for name, value in chosen.items()}
    for name, value in found.items():
        value.attrs |= {"units": "1", "description": f"{name.replace('_', ' ')} of a network of the grid"}
    final = described(factor_accuracy=(("seed", "part"), recorded.accuracy[:, -1], "share of samples that are right"))
    return (
        xr.Dataset(found)
        .assign(final)
        .assign_coords(layer=["first", "last"], part=["train", "test"])
        .drop_vars(["source", "window", "other_window"], errors="ignore")
    )
