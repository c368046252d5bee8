"""Eleven two-value codes: all in one program, and one after another."""

from collections.abc import Callable
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.ours import Ours
from experiments.benchmark.rounds import Options, compilation, first_times, line, rounds
from neuron_mech.codes import evaluation, quantization, sources


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


def code_lines(plain: Ours, options: Options) -> list[str]:
    """Eleven thresholds."""
    codes = code_contenders(plain)
    first = first_times(codes)
    t = rounds(codes, options, "thresholds")
    return [
        line("eleven thresholds at dense1, apart / together", t["dense1 apart"] / t["dense1 together"]),
        line("eleven thresholds at dense2, apart / together", t["dense2 apart"] / t["dense2 together"]),
        compilation(first, t),
    ]
