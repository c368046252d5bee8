"""Do two values a neuron carry what the network knows? (Section 5.1; figure 3 and table 1.)

At one site at a time, each pre-activation becomes the mean of its side of a threshold, at the same percentile rank for
all neurons; the rest of the network runs as it is. Writes quantization.nc and figures/: figure3, and information (each
neuron's own best threshold, and what its one bit says about the label). Controls: noise of the same mean squared error,
the same two values dealt to random samples, the threshold 0, and the rank of 0 before training.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from tqdm import tqdm

from experiments.command_line import Options, Seeded, Session, main
from neuron_mech import evaluation, figures, information, percentiles, quantization, results, sources, training
from neuron_mech.presets import random_stream
from neuron_mech.results import about
from neuron_mech.runs import Run

PAPER_TABLE_1 = {
    ("mnist-relu", "dense1"): (80, 8.9),
    ("mnist-relu", "dense2"): (50, 12),
    ("cifar10-relu", "stage0layer0"): (76, 38),
    ("cifar10-relu", "stage2layer2"): (65, 16),
    ("cifar10-relu", "stage3layer2"): (53, 2.2),
    ("imagenet-resnet50", "conv1"): (31, 37),
    ("imagenet-resnet50", "3d"): (31, 20),
    ("imagenet-resnet50", "5c"): (84, 2.8),
}
"""Mean and standard deviation over neurons of the percentile rank of 0 (the paper's table 1; it prints stage2layer0 for
the third layer of its figures)."""


@dataclass(frozen=True)
class QuantizationOptions(Seeded):
    """Options of this experiment."""

    ranks: tuple[float, ...] = tuple(range(0, 101, 10))
    """Percentile ranks used as thresholds, 0 to 100."""


def measure(run: Run, ranks: tuple[float, ...], bar: tqdm) -> xr.Dataset:
    """One seed's quantization.nc: accuracies by site and rank, and each neuron's numbers. Ticks `bar` once a site."""
    study, test = run.study, run.dataset.test
    seed = study.config.train.seed
    variables = run.state.train.variables
    untrained = training.init(study.config, study.model, test.rows(np.arange(1))).variables
    original = float(jax.jit(lambda v, s: training.accuracy(study.model, v, s))(variables, test))
    by_site: dict[str, list] = {name: [] for name in (*_CURVES, *_NUMBERS)}
    neurons: dict[str, tuple] = {}
    for name, site in study.sites.items():
        stream = random_stream(seed, f"quantization of {name}")

        def score(code, codes, name=name, stream=stream) -> np.ndarray:
            return evaluation.accuracies(code, study.model, name, codes, variables, test, stream)

        source = sources.network(study.model, variables, site)
        values, labels = sources.chosen_values(source, run.dataset.train, stream)
        codes = quantization.at_ranks(jnp.asarray(values), ranks)
        error = jax.lax.map(lambda code, v=values: quantization.squared_error(jnp.asarray(v), code), codes)
        zero = quantization.at_threshold(jnp.asarray(values), jnp.zeros(values.shape[1]))
        by_site["accuracy"].append(score(quantization.quantized, codes))
        by_site["noise_accuracy"].append(score(quantization.noisy, jnp.sqrt(error)))
        by_site["permuted_accuracy"].append(score(quantization.permuted, codes))
        by_site["zero_threshold_accuracy"].append(
            score(quantization.quantized, jax.tree.map(lambda leaf: leaf[None], zero))[0]
        )
        rank = np.asarray(percentiles.rank_of(jnp.asarray(values), 0.0))
        before, _ = sources.chosen_values(sources.network(study.model, untrained, site), run.dataset.train, stream)
        rank_before = np.asarray(percentiles.rank_of(jnp.asarray(before), 0.0))
        for label, found in (("zero_rank", rank), ("untrained_zero_rank", rank_before)):
            by_site[f"{label}_mean"].append(found.mean())
            by_site[f"{label}_std"].append(found.std())

        counts = information.label_counts(jnp.asarray(values), jnp.asarray(labels), run.dataset.classes)
        bits = np.asarray(information.threshold_information(counts))
        neurons |= {
            f"zero_rank_{name}": (f"neuron_{name}", rank, about("percentile rank", "percentile rank of 0")),
            f"untrained_zero_rank_{name}": (
                f"neuron_{name}",
                rank_before,
                about("percentile rank", "control: percentile rank of 0 before training"),
            ),
            f"best_rank_{name}": (
                f"neuron_{name}",
                bits.argmax(1) + 1.0,
                about(
                    "percentile rank", "rank of the threshold that says most about the label: share of samples below it"
                ),
            ),
            f"code_information_{name}": (
                f"neuron_{name}",
                bits.max(1),
                about("bit", "information about the label in the one bit at the neuron's best threshold"),
            ),
            f"value_information_{name}": (
                f"neuron_{name}",
                np.asarray(information.value_information(counts)),
                about("bit", "information about the label in the pre-activation"),
            ),
        }
        bar.update()
    named = {
        **{name: (("site", "percentile_rank"), by_site[name], about("1", text)) for name, text in _CURVES.items()},
        **{name: ("site", by_site[name], about(*text)) for name, text in _NUMBERS.items()},
        "original_accuracy": ((), original, about("1", "test accuracy of the network as it is")),
    }
    return xr.Dataset(named | neurons, {"site": list(study.sites), "percentile_rank": np.asarray(ranks, np.float64)})


_CURVES = {
    "accuracy": "test accuracy with a site's pre-activations cut to two values at a percentile rank",
    "noise_accuracy": "control: Gaussian noise of the same mean squared error by neuron",
    "permuted_accuracy": "control: the same two values dealt to random samples",
}
_NUMBERS = {
    "zero_threshold_accuracy": ("1", "test accuracy with two values cut at 0, the activation function's own threshold"),
    "zero_rank_mean": ("percentile rank", "rank of 0 among the pre-activations, mean over neurons (table 1)"),
    "zero_rank_std": ("percentile rank", "rank of 0, standard deviation over neurons (table 1)"),
    "untrained_zero_rank_mean": ("percentile rank", "control: mean rank of 0 before training"),
    "untrained_zero_rank_std": ("percentile rank", "control: standard deviation of the rank of 0 before training"),
}


def over_seeds(by_seed: list[xr.Dataset], seeds: list[int]) -> xr.Dataset:
    """Results by name as means over seeds; `NAME_by_seed` holds what each seed gave, `neurons` those of the first."""
    together = xr.concat(by_seed, xr.DataArray(seeds, dims="seed", name="seed"), combine_attrs="override")
    mean = together.mean("seed", keep_attrs=True)
    for name in together.data_vars:
        mean[f"{name}_by_seed"] = together[name]
    return mean


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
    """What survives two values, and what its controls do."""
    lines = [
        f"{found.attrs['preset']}: accuracy with two values a neuron, of {float(found.original_accuracy):.2%} with all"
    ]
    for site in found.site.values:
        at = found.sel(site=site)
        inner = at.sel(percentile_rank=slice(1, 99))
        low, high = float(inner.accuracy.min()), float(inner.accuracy.max())
        noise = f"{float(inner.noise_accuracy.min()):.2%} to {float(inner.noise_accuracy.max()):.2%}"
        lines.append(
            f"{at.label.item():18} {low:.2%} to {high:.2%} at inner ranks (noise of equal error {noise}, "
            f"dealt at random at most {float(inner.permuted_accuracy.max()):.2%}); "
            f"{at.zero_threshold_accuracy.item():.2%} cut at 0"
        )
    return "\n".join([*lines, table_1(found)])


def experiment(session: Session) -> None:
    """Measure every seed, write the results and print their summary."""
    assert isinstance(session.options, QuantizationOptions)
    by_seed, seeds = [], []
    for run in session.seeds():
        with tqdm(total=len(run.study.sites), desc="quantization", unit="site") as bar:
            by_seed.append(measure(run, session.options.ranks, bar))
        seeds.append(run.study.config.train.seed)
    found = over_seeds(by_seed, seeds)
    labels = [run.study.label(site) for site in found.site.values]
    found = found.assign_coords(label=("site", labels)).assign_attrs(preset=session.config.preset)
    results.write_dataset(session.directory / "quantization.nc", found)
    results.write(session.directory / "table1.txt", lambda part: part.write_text(table_1(found) + "\n"))
    results.write_figure(session.directory, "figure3", figures.quantization(found))
    results.write_figure(session.directory, "information", figures.information(found))
    print(summary(found))


def check(options: Options) -> None:
    """Refuse ranks that are none before anything is trained."""
    assert isinstance(options, QuantizationOptions)
    percentiles.check_ranks(options.ranks, "--ranks")


if __name__ == "__main__":
    main("quantization", __doc__ or "", experiment, QuantizationOptions, check)
