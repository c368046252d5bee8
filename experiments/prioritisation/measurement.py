"""What prioritisation.nc holds: scores of every sample, in each kind of training set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from experiments.open_questions import options as shared
from experiments.open_questions import training
from experiments.open_questions.network import Layers
from experiments.open_questions.options import Options, described
from experiments.prioritisation import planting, scores
from experiments.prioritisation.planting import Planted
from neuron_mech import taps
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import coherence, separating
from neuron_mech.recording.counting import count_type
from neuron_mech.taps.objectives import margin
from neuron_mech.training import TrainState
from neuron_mech.training.datasets import Dataset, Samples


@dataclass(frozen=True)
class Prioritisation(Options):
    """Options of this experiment."""

    depth: int = 2
    """Hidden layers."""
    learning_rate: float = 0.1
    """Of plain SGD."""
    sizes: tuple[int, ...] = (1, 4, 16, 64)
    """Samples of each planted pattern; of each size there are two, a class turned and a class tinted."""
    early: int = 3
    """Epochs after which EL2N and GraNd are taken."""

    def check(self, dataset: Dataset[Samples]) -> None:
        """Raise InputError for options that do not fit together, or the data."""
        super().check(dataset)
        if 2 * len(self.sizes) > dataset.classes:
            raise InputError(f"--sizes has {len(self.sizes)}: two classes each are needed, and {self.data} has 10")
        if self.early > self.epochs:
            raise InputError(f"--early is {self.early}, but there are {self.epochs} epochs: give fewer")
        most = int(np.min(np.bincount(np.asarray(dataset.train.labels))))
        if not self.sizes or min(self.sizes) < 1 or max(self.sizes) > most:
            raise InputError(f"--sizes is {self.sizes}: give whole numbers from 1 to {most}, the smallest class")


PRESETS = {
    "digits": Prioritisation(epochs=30),
    "mnist": Prioritisation(
        data="mnist", images=10_000, epochs=20, batch_size=100, every=25, sizes=(1, 4, 16, 64, 256)
    ),
}

SETS = {"patterns": (0.0, False), "noise 0.2": (0.2, False), "noise 0.4": (0.4, False), "asymmetric 0.4": (0.4, True)}
"""Training sets: (share of wrong labels, whether each goes to the next class); the first has patterns instead."""

GROUPS = ("all", "right labels", "wrong labels")
"""Samples whose coherence is measured."""

REFERENCE = 500
"""Training samples, the first, whose percentiles say where a neuron's middle is and how wide its range."""


def measure(options: Prioritisation, dataset: Dataset[Samples], directory: Path) -> xr.Dataset:
    """All training sets, put together."""
    parts = [shared.kept(directory, name, of_set, name, dataset, options) for name in SETS]
    found = xr.concat(parts, xr.Variable("training_set", list(SETS)))
    return found.assign_attrs({**shared.numbers(options), "classes": dataset.classes})


def planted(name: str, dataset: Dataset[Samples], options: Prioritisation, seed: int) -> Planted:
    """One seed's training set of SETS."""
    share, asymmetric = SETS[name]
    if not share:
        return planting.with_patterns(dataset.train, options.sizes, dataset.classes, seed)
    return planting.with_wrong_labels(dataset.train, share, asymmetric, dataset.classes, seed)


def of_set(name: str, dataset: Dataset[Samples], options: Prioritisation) -> xr.Dataset:
    """Train all seeds on their training sets, and score every sample."""
    sets = [planted(name, dataset, options, seed) for seed in range(options.seeds)]
    samples = dataset.train.replace(
        images=jnp.stack([jnp.asarray(of.images) for of in sets]),
        labels=jnp.stack([jnp.asarray(of.labels) for of in sets]),
    )
    model = Layers(depth=options.depth, neurons=options.neurons, dropout=0.0, classes=dataset.classes)
    states, count = training.begin(model, dataset.train.blank, options.seeds), len(dataset.train)
    per_epoch = -(-(count // options.batch_size) // options.every)
    shape = (options.seeds, count, model.neurons)
    total = options.epochs * per_epoch
    # A pair that is wrong at the last recording is never right for good, and one that never is, from the first on.
    last_wrong = {f"dense{i + 1}": jnp.full(shape, -1, count_type(total)) for i in range(options.depth)}
    stretches = training.stretches(options.seeds, count, options.batch_size, options.epochs, options.every)
    sums: dict[str, np.ndarray] = {}
    logits, together, grand = [], [], np.zeros(())
    ends: dict[str, np.ndarray] = {}
    wrong = jnp.stack([jnp.asarray(of.wrong) for of in sets])
    for number, ids in enumerate(tqdm(stretches, total=total, desc=name, unit="recording", disable=None)):
        states = _step(model, options.learning_rate, states, samples, ids)
        last_wrong, found = _look(model, states, samples, wrong, last_wrong, jnp.asarray(number))
        ends = jax.device_get(found)
        together.append(np.stack([ends.pop(f"coherence {site}") for site in last_wrong]))
        sums = {of: sums.get(of, 0) + value for of, value in ends.items()}
        if (number + 1) % per_epoch == 0:
            logits.append(np.asarray(_logits(model, states, samples)))
            if len(logits) == options.early:
                grand = np.asarray(_grand(model, states, samples))
    accuracy = training.accuracies(model, states, dataset.test)
    by_epoch = np.stack(logits, 1)  # (seeds, epochs, samples, classes)
    sites = list(last_wrong)
    times = np.stack([sided_from(np.asarray(of)) for of in last_wrong.values()], 1)
    by_site = {of: np.stack([sums[f"{of} {site}"] / total for site in sites], 1) for of in ("separation", "support")}
    at_end = np.stack([ends[f"separation {site}"] for site in sites], 1)
    each = [_published(of, np.asarray(s.labels), options.early) for of, s in zip(by_epoch, sets, strict=True)]
    fitted = [scores.learned(of[-1], s.labels).mean() for of, s in zip(by_epoch, sets, strict=True)]
    dims, of_sites = ("seed", "sample"), ("seed", "site", "sample")
    described_scores = {of: (dims, np.stack([one[of] for one in each]), PUBLISHED[of]) for of in each[0]}
    described_scores["grand"] = (dims, grand, "GraNd: length of the gradient, early in training")
    found = described(
        **described_scores,
        separation=(of_sites, by_site["separation"], "mean over training and neurons of c clip(u, -3, 3)"),
        separation_end=(of_sites, at_end, "mean over neurons of c clip(u, -3, 3), end of training"),
        support=(of_sites, by_site["support"], "share of neurons whose update agrees with the others'"),
        sided_from=(of_sites, times, "recording from which more than half of the neurons have it right for good"),
        population=(dims, np.stack([of.population for of in sets]), "number of the planted pattern, -1 for none"),
        wrong=(dims, np.stack([of.wrong for of in sets]).astype(np.int8), "1 for a wrong label"),
        accuracy=("seed", np.asarray(accuracy), "share of test samples that are right, end of training"),
        coherence=(
            ("recording", "site", "seed", "group"),
            np.stack(together),
            "mean over neurons of |sum of the samples' gradients|^2 / (n sum of |gradient|^2)",
        ),
        fitted=("seed", np.array(fitted), "share of training labels that are right, end of training"),
    )
    return xr.Dataset(found, {"site": sites, "group": list(GROUPS)}).assign_attrs(recordings=total)


PUBLISHED = {
    "aum": "area under the margin: mean over epochs of the label's logit minus the largest other one",
    "forgetting": "forgetting events, over epochs",
    "first_learned": "first epoch at whose end it is right",
    "el2n": "EL2N: length of the error, early in training",
}


def _published(logits: np.ndarray, labels: np.ndarray, early: int) -> dict[str, np.ndarray]:
    right = scores.learned(logits, labels)
    return {
        "aum": scores.area_under_margin(logits, labels),
        "forgetting": scores.forgetting_events(right),
        "first_learned": scores.first_learned(right),
        "el2n": scores.el2n(logits[early - 1], labels),
    }


def sided_from(last_wrong: np.ndarray) -> np.ndarray:
    """T: the first recording from which more than half of the neurons have a sample right for good.

    From the recording at which each (..., neuron) was last wrong, -1 for never: the next after the smallest value that
    more than half do not exceed. As many as there are recordings where half and more are wrong at the last one.
    """
    return np.sort(last_wrong.astype(np.int64), -1)[..., last_wrong.shape[-1] // 2] + 1


@partial(jax.jit, static_argnums=(0, 1))
def _step(model: Layers, learning_rate: float, states: TrainState, samples: Samples, ids: Array) -> TrainState:
    return jax.vmap(partial(training.steps, model, learning_rate=learning_rate))(states, samples, ids)


@partial(jax.jit, static_argnums=0, donate_argnums=4)
def _look(
    model: Layers,
    states: TrainState,
    samples: Samples,
    wrong: Array,
    last_wrong: dict[str, Array],
    number: Array,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(last wrong recordings, {score and site: of every sample}) of all seeds, one after another."""

    def one(of: tuple[Any, Samples, Array, dict[str, Array]]) -> tuple[dict[str, Array], dict[str, Array]]:
        variables, samples, wrong, last_wrong = of
        found = look(model, variables, samples, wrong)
        marked = {
            site: jnp.where(found.pop(f"right {site}"), at, number.astype(at.dtype)) for site, at in last_wrong.items()
        }
        return marked, found

    return jax.lax.map(one, (states.variables, samples, wrong, last_wrong))


def look(model: Layers, variables: Any, samples: Samples, wrong: Array) -> dict[str, Array]:
    """Of every sample and site: its separation, its support, and at which neurons it is on its side. Pure.

    Also the coherence of GROUPS of samples, the mean over neurons. `wrong` says which labels are wrong.
    """
    inputs = samples.inputs
    found = {at: site for at, site in taps.sites(model, variables, inputs[:1]).items() if site.kind == "Neurons"}
    loss = {"loss": lambda out, labels: nn.softplus(margin(out, labels)), "margin": margin}
    common = (model, variables, inputs, samples.labels, taps.zeros(found, len(samples)))
    derivatives = taps.activation_gradients(*common, loss, "pre_activation", "fast")
    wanted = taps.activation_gradients(*common, {"margin": margin}, "activation", "fast")["margin"]
    values, shown = taps.read(model, variables, inputs, tuple(found))[1], {}
    below = inputs.reshape(len(samples), -1)
    for site, z in values.items():
        places = separating.standardised(z, REFERENCE)
        apart = separating.separation(places, wanted[site])
        with_bias = jnp.concatenate([below, jnp.ones((len(below), 1), below.dtype)], 1)
        shown[f"separation {site}"] = apart.mean(1)
        shown[f"support {site}"] = coherence.agrees(with_bias, derivatives["loss"][site]).mean(1, dtype=jnp.float32)
        shown[f"right {site}"] = apart > 0
        each = []
        for group in (jnp.ones_like(wrong), ~wrong, wrong):
            some = group.astype(jnp.float32)
            of = coherence.coherence(with_bias, derivatives["loss"][site] * some[:, None])
            # It counts the samples that were set to zero too.
            each.append(jnp.nanmean(of) * len(some) / some.sum())
        shown[f"coherence {site}"] = jnp.stack(each)
        below = nn.relu(z)
    return shown


@partial(jax.jit, static_argnums=0)
def _logits(model: Layers, states: TrainState, samples: Samples) -> Array:
    return jax.lax.map(lambda of: model.apply(of[0], of[1].inputs), (states.variables, samples))


@partial(jax.jit, static_argnums=0)
def _grand(model: Layers, states: TrainState, samples: Samples) -> Array:
    return jax.lax.map(lambda of: scores.grand(model, *of), (states.variables, samples))
