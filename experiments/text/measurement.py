"""What is measured of the transformer's hidden neurons, labelled: the signs by position, and probes on windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from tqdm import tqdm

import neuron_mech
from experiments.text.options import TextOptions
from experiments.text.transformer import Transformer, evaluate, some, train
from neuron_mech.codes import linear_probes, windowing
from neuron_mech.config import random_stream
from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import constancies, counting, partitions, summaries
from neuron_mech.store import variable
from neuron_mech.store.checkpoints import Checkpoints

SITES = "*/Dense_0"
"""The first Dense of every block, whose outputs are the hidden neurons' pre-activations."""
EVALUATED, FITTED, PROBED = 10_000, 4000, 2000
"""Samples: of each split for the network's accuracy; training and test samples of a probe, which are the first of them.
"""
CENTERS = tuple(range(5, 100, 10))
"""Percentile ranks of the windows' centers; each is ten ranks wide."""


def measure(
    options: TextOptions, text: Mapping[str, Int[np.ndarray, " characters"]], vocabulary: int, saves: Checkpoints
) -> xr.Dataset:
    """Train, record and probe: what text.nc holds."""
    stream, context = partial(random_stream, options.seed), options.context
    model = Transformer(vocabulary, options.depth, options.width)
    inputs, targets = some(text["train"], options.samples, context, stream("recorded samples"))
    initial = model.init(stream("initialisation"), inputs[:1])["params"]
    chosen = {name: getattr(options, name) for name in ("neurons", "positions", "seed")}
    chosen |= {"recordings": -(-options.steps // options.every), "keep": 2, "keep_at": context - 1}
    plan = neuron_mech.plan(model, {"params": initial}, inputs, targets, SITES, **chosen)
    print(plan)
    trained, recorder = train(model, initial, plan.recorder(), jnp.asarray(text["train"]), options, saves)
    split = {name: some(ids, EVALUATED, context, stream(name)) for name, ids in text.items()}
    accuracy, bits = np.array([evaluate(model, trained, *part) for part in split.values()]).T
    params = {"trained": trained, "untrained": initial}
    probed = {name: (split[name][0][:n], split[name][1][:n]) for name, n in (("train", FITTED), ("test", PROBED))}
    windows = windows_of(model, params, probed, options.penalty)
    chance = (split["test"][1] == np.argmax(np.bincount(split["train"][1]))).mean(dtype=jnp.float32).item()
    read = "test accuracy of a linear probe on one window of the last position's hidden neurons"
    described = {
        "accuracy": variable("split", accuracy, "share of characters predicted"),
        "bits": variable("split", bits, "cross-entropy a character", "bit"),
        "chance": variable("", chance, "share of the training set's most frequent character in the test set"),
        "window_accuracy": variable("site source window_center", windows, read),
    }
    coords = {"split": list(text), "source": list(params), "window_center": list(CENTERS)}
    found = signs_of(recorder, context).assign_coords(coords).assign(described)
    stored = {name: value for name, value in asdict(options).items() if isinstance(value, int | float)}
    return found.assign_attrs(stored | {"vocabulary": vocabulary})


def signs_of(recorder: neuron_mech.Recorder, context: int) -> xr.Dataset:
    """The recorder's dataset with sites named by block, and more of single positions; NaN where they are not recorded.

    Of the last block only the last position reaches the output: no other ever has a derivative.
    """
    # Short names in the place of the model's own paths.
    blocks = [f"block{index + 1}" for index in range(len(recorder.design.sites))]
    named = dict(zip(blocks, recorder.recorded().values(), strict=True))
    rng = np.random.default_rng(0)
    shown = {block: int(rng.choice(at.neurons)) for block, at in named.items()}
    signs = summaries.of_signs(named, recorder.recordings, shown)
    signs = signs.assign_coords(label=("site", [f"block {index + 1}" for index in range(len(blocks))]))
    constancy, independent, auc = (np.full((len(blocks), n), np.nan) for n in (context, context, 2))
    for row, (site, tally) in enumerate(recorder.counts().items()):
        chosen = recorder.design.positions[site]
        for index, position in enumerate(range(context) if chosen is None else chosen):
            at = tally.part(np.s_[:, index])
            counts = counting.constant_counts(at.positive, at.negative)
            constancy[row, position] = counting.constancy(*counts)
            if position == context - 1:
                independent[row, position] = np.nanmean(constancies.independent_constancy(at))
                values, category = recorder.watched(site)[0], recorder.partition(site)[:, index]
                auc[row] = np.nanmean(partitions.separation(values, np.asarray(category)).auc, axis=1)
    last = "of the context's last position"
    said = "share of |average sign| > 0.9"
    found = {
        "position_constancy": variable("site before", constancy[:, ::-1], f"{said} by position"),
        "last_constancy": variable("site", constancy[:, -1], f"{said} {last}"),
        "last_independent_constancy": variable(
            "site", independent[:, -1], f"control: the same {last} of independent signs"
        ),
        "auc": variable("site recording", auc, f"AUC of high over low pre-activations {last}, mean over neurons"),
    }
    return signs.assign(found).assign_coords(before=np.arange(1, context + 1), recording=["first", "last"])


def windows_of(
    model: Transformer, params: Mapping[str, Any], split: Mapping[str, tuple[Array, Array]], penalty: float
) -> np.ndarray:
    """Test accuracies of linear probes on the last position's 0/1 codes: (blocks, sources of `params`, windows)."""
    labels = {name: np.asarray(following) for name, (_, following) in split.items()}

    @jax.jit
    def read(params: Any, contexts: Array) -> dict[str, Array]:
        values = neuron_mech.read(model, {"params": params}, contexts, SITES)[1]
        return {site: at[:, -1] for site, at in values.items()}

    found = np.empty((model.depth, len(params), len(CENTERS)))
    with tqdm(total=found.size, desc="probes", unit="probe", disable=None) as bar:
        for column, variables in enumerate(params.values()):
            values = {name: read(variables, contexts) for name, (contexts, _) in split.items()}
            for row, site in enumerate(values["train"]):
                windows = windowing.at_centers(values["train"][site], CENTERS, 10.0)
                for index in range(len(CENTERS)):
                    window = jax.tree.map(lambda edges, index=index: edges[index], windows)
                    codes = {name: np.asarray(window(at[site]), np.uint8) for name, at in values.items()}
                    probe = linear_probes.fit(codes["train"], labels["train"], model.vocabulary, penalty)
                    found[row, column, index] = linear_probes.accuracy(probe, codes["test"], labels["test"])
                    bar.update()
    return found
