"""Do two values a neuron carry what the network knows? (Section 5.1; figure 3 and table 1.)

At one site at a time, each pre-activation becomes the mean of its side of a threshold, at the same percentile rank for
all neurons; the rest of the network runs as it is. Writes quantization.nc and figures/: figure3, and information (each
neuron's own best threshold, and what its one bit says about the label). Controls: noise of the same mean squared error,
the same two values dealt to random samples, the threshold 0, and the rank of 0 before training.

With `--replace activation` it is the activations that become two values, and quantization_activation.nc and
figure3_activation that are written, beside the others: part of what is lost before a ReLU at low ranks is that it makes
one zero of two negative means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.command_line import Seeded, Session, main
from neuron_mech import store, taps
from neuron_mech.codes import evaluation, information, percentiles, quantization, sources
from neuron_mech.codes.evaluation import Replaced
from neuron_mech.config import check_once, random_stream
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper import figures
from neuron_mech.runs.subjects import Subject
from neuron_mech.store import variable
from neuron_mech.taps.neurons import ACTIVATIONS

PAPER_TABLE_1 = {
    ("mnist-relu", "dense1"): (80, 8.9),
    ("mnist-relu", "dense2"): (50, 12),
    ("cifar10-relu", "stage0layer0"): (76, 38),
    ("cifar10-relu", "stage2layer0"): (65, 16),
    ("cifar10-relu", "stage3layer2"): (53, 2.2),
    ("imagenet-resnet50", "conv1"): (31, 37),
    ("imagenet-resnet50", "3d"): (31, 20),
    ("imagenet-resnet50", "5c"): (84, 2.8),
}
"""Mean and standard deviation over neurons of the percentile rank of 0 (table 1 of the paper, which calls the third
layer of its figures stage2layer0)."""


@dataclass(frozen=True)
class QuantizationOptions(Seeded):
    """Options of this experiment."""

    ranks: tuple[float, ...] = tuple(range(0, 101, 10))
    """Percentile ranks used as thresholds, 0 to 100."""
    replace: Replaced = "pre_activation"
    """What becomes two values: pre-activations (the paper), or activations."""


def measure(subject: Subject, ranks: tuple[float, ...], replace: Replaced = "pre_activation") -> xr.Dataset:
    """One seed's quantization.nc: accuracies by site and rank, and each neuron's numbers.

    Reads the training images once, for the codes, and the test images once, for the accuracies.
    """
    streams = {site: random_stream(subject.config.train.seed, f"quantization of {site}") for site in subject.sites}
    found = sources.chosen_values(
        sources.Joined({kind: subject.source(kind) for kind in ("trained", "untrained")}),
        subject.dataset.train,
        random_stream(subject.config.train.seed, "images for quantization"),
        # One key a site: the same positions of trained and of untrained neurons.
        {(kind, site): jax.random.split(streams[site])[1] for kind in ("trained", "untrained") for site in streams},
        chunk=taps.fitting(subject.sites, 1000),
    )
    function = ACTIVATIONS[subject.config.model.activation]
    trials: dict[tuple[str, str], evaluation.Trial] = {}
    numbers: dict[str, list] = {name: [] for name in _NUMBERS}
    neurons: list[xr.Dataset] = []
    for site, stream in streams.items():
        values, labels = found.pop(("trained", site))
        rank = np.asarray(percentiles.rank_of(jnp.asarray(values), 0.0))
        rank_before = np.asarray(percentiles.rank_of(jnp.asarray(found.pop(("untrained", site)).values), 0.0))
        for name, of in (("zero_rank", rank), ("untrained_zero_rank", rank_before)):
            numbers[f"{name}_mean"].append(of.mean())
            numbers[f"{name}_std"].append(of.std())
        # The threshold of the function itself: 0, or after it, what it makes of 0.
        coded, own = values, np.zeros((), np.float32)
        if replace == "activation":
            coded, own = (np.asarray(function(jnp.asarray(of))) for of in (values, own))
        for name, (code, codes) in _codes(coded, ranks, float(own)).items():
            trials[name, site] = evaluation.Trial(site, code, codes, stream, replace)
        neurons.append(_by_neuron(site, values, labels, subject.dataset.classes, rank, rank_before))

    first = next(iter(streams))
    trials["original", first] = evaluation.Trial(first, evaluation.unchanged, jnp.zeros(1), streams[first])
    top = subject.dataset.top
    called = figures.accuracy_name(top)
    frequency = np.zeros(subject.dataset.classes, np.int64)
    accuracy = evaluation.accuracies(
        subject.model, subject.variables, subject.sites, trials, subject.dataset.test, top, labels=frequency
    )
    chance = int(np.sort(frequency)[-top:].sum()) / int(frequency.sum())
    numbers["zero_threshold_accuracy"] = [accuracy["zero", site][0] for site in streams]
    curves = {name: [accuracy[name, site] for site in streams] for name in _CURVES}
    named = {
        **{
            name: variable("site percentile_rank", curves[name], text.format(accuracy=called))
            for name, text in _CURVES.items()
        },
        **{
            name: variable("site", numbers[name], text.format(accuracy=called), units)
            for name, (units, text) in _NUMBERS.items()
        },
        "original_accuracy": variable("", accuracy["original", first][0], f"{called} of the network as it is"),
        "chance": variable("", chance, f"{called} of always naming what is most frequent in the test set"),
    }
    coordinates = {"site": list(streams), "percentile_rank": np.asarray(ranks, np.float64)}
    attributes = {"top": top, "test_samples": len(subject.dataset.test), "replace": replace}
    return store.stacked(neurons).assign(named).assign_coords(coordinates).assign_attrs(attributes)


def _codes(values: np.ndarray, ranks: tuple[float, ...], own: float) -> dict[str, tuple[evaluation.Code, Any]]:
    """The codes of a site by name: two values by rank, the controls of equal error, and two values cut at `own`."""
    here = jnp.asarray(values)
    codes = quantization.at_ranks(here, ranks)
    error = jax.lax.map(lambda code: quantization.squared_error(here, code), codes)
    zero = quantization.at_threshold(here, jnp.full(values.shape[1], own))
    return {
        "accuracy": (quantization.quantized, codes),
        "noise_accuracy": (quantization.noisy, jnp.sqrt(error)),
        "permuted_accuracy": (quantization.permuted, codes),
        "zero": (quantization.quantized, jax.tree.map(lambda leaf: leaf[None], zero)),
    }


def _by_neuron(
    site: str, values: np.ndarray, labels: np.ndarray, classes: int, rank: np.ndarray, rank_before: np.ndarray
) -> xr.Dataset:
    """Each neuron's numbers at a site."""
    whole, bits = information.by_neuron(jnp.asarray(values), jnp.asarray(labels), classes)
    most = "rank of the threshold that says most about the label: share of samples below it"
    one_bit = "information about the label in the one bit at the neuron's best threshold"
    found = {
        "zero_rank": (rank, "percentile rank of 0", "percentile rank"),
        "untrained_zero_rank": (rank_before, "control: percentile rank of 0 before training", "percentile rank"),
        "best_rank": (bits.argmax(1) + 1.0, most, "percentile rank"),
        "code_information": (bits.max(1), one_bit, "bit"),
        "value_information": (whole, "information about the label in the pre-activation", "bit"),
    }
    variables = {name: variable("neuron", *of) for name, of in found.items()}
    return store.of_site(site, np.arange(len(rank)), variables)


_CURVES = {
    "accuracy": "{accuracy} with a site's pre-activations cut to two values at a percentile rank",
    "noise_accuracy": "control: Gaussian noise of the same mean squared error by neuron",
    "permuted_accuracy": "control: the same two values dealt to random samples",
}
_NUMBERS = {
    "zero_threshold_accuracy": ("1", "{accuracy} with two values cut where the pre-activation is 0"),
    "zero_rank_mean": ("percentile rank", "rank of 0 among the pre-activations, mean over neurons (table 1)"),
    "zero_rank_std": ("percentile rank", "rank of 0, standard deviation over neurons (table 1)"),
    "untrained_zero_rank_mean": ("percentile rank", "control: mean rank of 0 before training"),
    "untrained_zero_rank_std": ("percentile rank", "control: standard deviation of the rank of 0 before training"),
}


def over_seeds(by_seed: list[xr.Dataset], seeds: list[int]) -> xr.Dataset:
    """The mean over seeds of every variable, and each seed's own values as `NAME_by_seed`."""
    together = xr.concat(by_seed, xr.DataArray(seeds, dims="seed", name="seed"), combine_attrs="override")
    by_seed_too = {f"{name}_by_seed": variable.variable for name, variable in together.data_vars.items()}
    return together.mean("seed", keep_attrs=True).assign(by_seed_too).assign_coords(seed=seeds)


def table_1(found: xr.Dataset) -> str:
    """Mean and standard deviation over neurons of the percentile rank of 0, beside the paper's."""
    lines = ["percentile rank of 0 (table 1)   trained         untrained       paper"]
    for site in found.site.values:
        at = found.sel(site=site)
        paper = PAPER_TABLE_1.get((found.attrs["preset"], str(site)))
        lines.append(
            f"{at.label.item():30} {at.zero_rank_mean.item():6.1f} ± {at.zero_rank_std.item():4.1f}   "
            f"{at.untrained_zero_rank_mean.item():6.1f} ± {at.untrained_zero_rank_std.item():4.1f}   "
            + (f"{paper[0]:4g} ± {paper[1]:g}" if paper else "   –")
        )
    return "\n".join(lines)


def summary(found: xr.Dataset) -> str:
    """Accuracy with two values a neuron and under its controls, and table 1."""
    lines = [
        f"{found.attrs['preset']}: {figures.accuracy_name(found.attrs['top'])} with two values a neuron ("
        f"{found.attrs['replace'].replace('_', '-')}s), of "
        f"{float(found.original_accuracy):.2%} with all"
    ]
    for site in found.site.values:
        at = found.sel(site=site)
        inner = at.sel(percentile_rank=slice(1, 99))
        low, high = float(inner.accuracy.min()), float(inner.accuracy.max())
        noise = f"{float(inner.noise_accuracy.min()):.2%} to {float(inner.noise_accuracy.max()):.2%}"
        lines.append(
            f"{at.label.item():18} {low:.2%} to {high:.2%} at inner ranks (noise of equal error {noise}, "
            f"dealt at random at most {float(inner.permuted_accuracy.max()):.2%}); "
            f"{at.zero_threshold_accuracy.item():.2%} cut where the pre-activation is 0"
        )
    return "\n".join([*lines, table_1(found)])


def experiment(session: Session[QuantizationOptions]) -> None:
    """Measure every seed, write the results and print their summary."""
    suffix = "_activation" if session.options.replace == "activation" else ""
    store.step(f"quantization{suffix}")(_measured)(session, suffix)


def _measured(session: Session[QuantizationOptions], suffix: str) -> None:
    by_seed, seeds, directory = [], [], session.directory
    for subject in session.subjects():
        by_seed.append(measure(subject, session.options.ranks, session.options.replace))
        seeds.append(subject.config.train.seed)
    found = over_seeds(by_seed, seeds)
    labels = [subject.label(site) for site in found.site.values]
    found = found.assign_coords(label=("site", labels)).assign_attrs(preset=session.config.preset)
    if not suffix:
        store.write_result(
            directory / "table1.txt", lambda part: part.write_text(f"{table_1(found)}\n", encoding="utf-8")
        )
        figures.write_figure(directory, "information", figures.information(found))
    figures.write_figure(directory, f"figure3{suffix}", figures.quantization(found))
    store.write_dataset(directory / f"quantization{suffix}.nc", found)
    print(summary(found))


def check(options: QuantizationOptions) -> None:
    """Refuse ranks outside 0 to 100, or none, before anything is trained."""
    percentiles.check_ranks(options.ranks, "--ranks")
    check_once("--ranks", options.ranks)


if __name__ == "__main__":
    main("quantization", __doc__ or "", experiment, QuantizationOptions, check)
