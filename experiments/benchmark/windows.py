"""Ten windows' retraining: all in one program, in every form that convolutions can take, and one after another."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.ours import Ours
from experiments.benchmark.rounds import Options, compilation, first_times, line, rounds
from neuron_mech import taps
from neuron_mech.codes import retraining, sources, windowing
from neuron_mech.codes.retraining import Form
from neuron_mech.codes.windowing import Binarized
from neuron_mech.taps import Site

WINDOWS = 10


def window_lines(plain: Ours, options: Options) -> list[str]:
    """Ratios of the preset's network: of an epoch above dense1, or of training steps above sites of the CNN."""
    if plain.study.config.model.network == "cnn":
        one = plain.dataset.train.rows(np.arange(1))
        sites = taps.sites(plain.study.model, plain.state.variables, one.inputs)
        chosen = taps.select(sites, options.window_sites, "--window-sites").values()
        return [line for site in chosen for line in _convolutional_lines(plain, site, options)]
    return _mlp_lines(plain, options)


def mlp_contenders(ours: Ours, torch: bool) -> dict[str, Callable[[], object]]:
    """One epoch of retraining above dense1 through ten windows: together, apart, and in PyTorch."""
    study, variables, train = ours.study, ours.state.variables, ours.dataset.train
    config = replace(study.config, train=replace(study.config.train, epochs=1))
    source, key = sources.network(study.model, variables, study.sites), jax.random.key(0)
    values = sources.chosen_values(source, train, key, {"dense1": key})["dense1"].values
    windows = windowing.at_centers(values, range(5, 100, 10), 10)
    look = windowing.binarizer(source, "dense1")
    seen, few = look(windows, train), look(windows, train.rows(np.arange(100)))
    cut = retraining.cut(config, study.model, variables, train.rows(np.arange(1)), study.sites["dense1"])
    retrain = retraining.Retraining(cut)

    def apart() -> None:
        for index in range(WINDOWS):
            one, test = (part.replace(bits=part.bits[index : index + 1]) for part in (seen, few))
            retrain(one, test)

    contenders: dict[str, Callable[[], object]] = {"together": lambda: retrain(seen, few), "apart": apart}
    if torch:
        from experiments.benchmark import pytorch

        shape = study.sites["dense1"].shape
        bits = np.stack([np.asarray(windowing.unpack(window, shape), bool) for window in seen.bits])
        contenders["torch"] = lambda: pytorch.retrain_epoch(config, bits, np.asarray(train.labels))
    return contenders


def _mlp_lines(plain: Ours, options: Options) -> list[str]:
    contenders = mlp_contenders(plain, torch=not options.only_windows)
    compiling = first_times(contenders)
    t = rounds(contenders, options, "windows", options.epoch_repeats)
    lines = [
        line("ten windows, an epoch together", t["together"], " s"),
        line("ten windows, apart / together", t["apart"] / t["together"]),
        line("ten windows, together / one of them", WINDOWS * t["together"] / t["apart"]),
    ]
    if "torch" in t:
        lines += [
            line("ten windows, PyTorch / together", t["torch"] / t["together"]),
            line("ten windows, PyTorch / apart", t["torch"] / t["apart"]),
        ]
    return [*lines, compilation(compiling, t)]


def convolutional_contenders(ours: Ours, site: Site, steps: int) -> dict[tuple[Form, int], Callable[[], object]]:
    """{(form, windows): a function that does `steps` training steps above a site of the CNN}, for 1 and 10 windows.

    Bits and labels are random: speed does not depend on what they are.
    """
    study, train = ours.study, ours.dataset.train
    cut = retraining.cut(study.config, study.model, ours.state.variables, train.rows(np.arange(1)), site)
    samples = train.rows(np.arange(min(len(train), steps * study.config.train.batch_size)))
    width = jax.eval_shape(lambda: windowing.pack(jnp.zeros((1, *site.shape), bool))).shape[1]
    bits = np.random.default_rng(0).integers(0, 256, (WINDOWS, len(samples), width), np.uint8)
    contenders: dict[tuple[Form, int], Callable[[], object]] = {}
    for form in get_args(Form):
        retrain = retraining.Retraining(replace(cut, form=form))
        for windows in (1, WINDOWS):
            seen = Binarized(jnp.asarray(bits[:windows]), samples.labels)
            states, (ids, _) = [retrain.start(windows)], retrain.order(len(samples), 0)

            def advance(retrain=retrain, seen=seen, states=states, ids=ids) -> None:
                states[0], losses = retrain.epoch(states[0], seen, ids, None)
                jax.block_until_ready((states[0], losses))

            contenders[form, windows] = advance
    return contenders


def _convolutional_lines(plain: Ours, site: Site, options: Options) -> list[str]:
    contenders = convolutional_contenders(plain, site, options.steps)
    named = {f"{form} {windows}": work for (form, windows), work in contenders.items()}
    compiling = first_times(named)
    t = rounds(named, options, f"windows above {site.name}", options.epoch_repeats)
    one = t["convolutions 1"]
    steps = min(options.steps, len(plain.dataset.train) // plain.study.config.train.batch_size)
    lines = [line(f"a step of one window above {site.name:18}", one / steps * 1e3, " ms")]
    for form, windows in contenders:
        if (form, windows) != ("convolutions", 1):
            how = f"{windows} as {form}"
            lines.append(line(f"  {how:21} / one as convolutions", t[f"{form} {windows}"] / one))
    return [*lines, compilation(compiling, t)]
