"""Eleven two-value codes, and ten windows' retraining: all in one program, and one after another."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.ours import Ours
from experiments.benchmark.rounds import Options, rounds, spread
from neuron_mech import binarization, evaluation, quantization, retraining, sources


def code_contenders(ours: Ours) -> dict[str, Callable[[], object]]:
    """Accuracy on 10,000 samples under eleven two-value codes: in one program, and one after another."""
    study, variables, test = (
        ours.study,
        ours.state.variables,
        ours.dataset.train.rows(np.arange(min(10_000, len(ours.dataset.train)))),
    )
    contenders: dict[str, Callable[[], object]] = {}
    source, key = sources.network(study.model, variables, study.sites), jax.random.key(0)
    for name, (values, _) in sources.chosen_values(source, test, key, dict.fromkeys(study.sites, key)).items():
        codes = quantization.at_ranks(jnp.asarray(values), range(0, 101, 10))

        def score(codes, name=name) -> object:
            trials = {"codes": evaluation.Trial(name, quantization.quantized, codes, key)}
            return evaluation.accuracies(study.model, variables, study.sites, trials, test)

        def apart(codes=codes, score=score) -> None:
            for index in range(11):
                score(jax.tree.map(itemgetter(slice(index, index + 1)), codes))

        contenders |= {f"{name} together": partial(score, codes), f"{name} apart": apart}
    return contenders


def window_contenders(ours: Ours) -> dict[str, Callable[[], object]]:
    """One epoch of retraining above dense1 through ten windows: together, apart, and in PyTorch."""
    from experiments.benchmark import pytorch

    study, variables, train = ours.study, ours.state.variables, ours.dataset.train
    config = replace(study.config, train=replace(study.config.train, epochs=1))
    source, key = sources.network(study.model, variables, study.sites), jax.random.key(0)
    values = sources.chosen_values(source, train, key, {"dense1": key})["dense1"].values
    windows = binarization.at_centers(values, range(5, 100, 10), 10)
    look = retraining.binarizer(source, "dense1")
    seen, few = look(windows, train), look(windows, train.rows(np.arange(100)))
    cut = retraining.cut(config, study.model, variables, train.rows(np.arange(1)), study.sites["dense1"])
    retrain = retraining.Retraining(cut)
    bits = np.stack(
        [np.asarray(binarization.unpack(window, study.sites["dense1"].shape), bool) for window in seen.bits]
    )

    def apart() -> None:
        for index in range(10):
            one, test = (part.replace(bits=part.bits[index : index + 1]) for part in (seen, few))
            retrain(one, test)

    return {
        "windows together": lambda: retrain(seen, few),
        "windows apart": apart,
        "windows torch": lambda: pytorch.retrain_epoch(config, bits, np.asarray(train.labels)),
    }


def code_lines(plain: Ours, options: Options) -> list[str]:
    """Eleven thresholds, and ten windows' retraining."""
    codes, windows = code_contenders(plain), window_contenders(plain)
    first: dict[str, float] = {}
    for name, work in (codes | windows).items():
        start = time.perf_counter()
        work()
        first[name] = time.perf_counter() - start
    t = rounds(codes, options.repeats, options.pause, "thresholds") | rounds(
        windows, options.epoch_repeats, options.pause, "windows"
    )
    return [
        f"eleven thresholds at dense1, apart / together  {spread(t['dense1 apart'] / t['dense1 together'])}",
        f"eleven thresholds at dense2, apart / together  {spread(t['dense2 apart'] / t['dense2 together'])}",
        f"ten windows, an epoch together                {spread(t['windows together'], ' s')}",
        f"ten windows, apart / together                 {spread(t['windows apart'] / t['windows together'])}",
        f"ten windows, PyTorch / together               {spread(t['windows torch'] / t['windows together'])}",
        f"ten windows, PyTorch / apart                  {spread(t['windows torch'] / t['windows apart'])}",
        "compilation: "
        + ", ".join(f"{name} {first[name] - np.median(t[name]):.1f} s" for name in first if "torch" not in name),
    ]
