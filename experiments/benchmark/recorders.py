"""Recorders in a loop of one's own against this package's recording and a plain loop."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import neuron_mech
from experiments.benchmark.ours import Ours
from experiments.benchmark.rounds import Options, line, rounds

ONLINE = 10_000
"""Training samples that are recorded online, at most: of the CNN's 50,000 the counts alone would take 17 GB."""


def own_lines(probe: Ours, options: Options) -> list[str]:
    """Recorders in a loop of one's own: a recording against this package's, an online step against a plain one."""
    study, train = probe.study, probe.dataset.train
    model, sites, size = study.model, tuple(study.sites), study.config.train.batch_size
    state = probe.state
    images, labels = train.inputs[:ONLINE], train.labels[:ONLINE]
    variables = {"params": state.params, **state.statistics}
    mine = neuron_mech.recorder(
        *(model, variables, images, labels, sites),
        recordings=10**4,
        samples=min(study.design.rows[site] for site in sites),
        chunk=study.config.record.chunk,
        audit=False,
    )
    # Alike for both: this package's recording of as many samples.
    rows = tuple(f"{site}:{len(mine.rows)}" for site in sites)
    alike = Ours(replace(study.config, record=replace(study.config.record, site_samples=rows)), probe.dataset)
    seen = neuron_mech.online(
        *(model, variables, images[:8], sites), samples=len(labels), recordings=100, mixing="batch"
    )

    def loss(params: Any, perturbations: Any, ids: jax.Array) -> jax.Array:
        outputs = seen.perturbed(perturbations)({"params": params, **state.statistics}, images[ids])
        return jax.nn.softplus(neuron_mech.margin(outputs, labels[ids])).mean()

    def down(params: Any, gradients: Any) -> Any:
        return jax.tree.map(lambda p, g: p - study.config.train.learning_rate * g, params, gradients)

    plain = jax.jit(lambda params, ids: down(params, jax.grad(loss)(params, {}, ids)), donate_argnums=0)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, recorder: neuron_mech.Online, ids: jax.Array) -> tuple[Any, neuron_mech.Online]:
        gradients, signs = jax.grad(loss, argnums=(0, 1))(params, recorder.perturbations(size), ids)
        return down(params, gradients), recorder.saw(signs, ids)

    order = jnp.arange(len(labels) // size * size).reshape(-1, size)[: options.steps]
    kept = {"plain": jax.tree.map(jnp.copy, state.params), "online": (jax.tree.map(jnp.copy, state.params), seen)}
    kept["probe"] = mine

    def plainly() -> None:
        for ids in order:
            kept["plain"] = plain(kept["plain"], ids)
        jax.block_until_ready(kept["plain"])

    def online() -> None:
        params, recorder = kept["online"]
        for ids in order:
            params, recorder = step(params, recorder, ids)
        # Counting costs the same whatever waits: an epoch's, once for its share of an epoch.
        kept["online"] = jax.block_until_ready((params, waiting(recorder, 0)))

    def count() -> None:
        params, recorder = kept["online"]
        counted = waiting(recorder, len(labels)).end_epoch().replace(most=jnp.zeros((), jnp.int32))
        kept["online"] = jax.block_until_ready((params, counted))

    def record() -> None:
        kept["probe"] = jax.block_until_ready(kept["probe"].update(variables))

    contenders = {"plain": plainly, "online": online, "count": count, "record": record, "alike": alike.record}
    t = rounds(contenders, options, "own recorders")
    counting = t["count"] * len(order) / (len(labels) // size)
    return [
        line("own.recorder / recording, ours", t["record"] / t["alike"]),
        line("own.online, a step and its share of counting / plain step", (t["online"] + counting) / t["plain"]),
    ]


def waiting(recorder: neuron_mech.Online, count: int) -> neuron_mech.Online:
    """The recorder as if the signs of `count` samples waited to be counted."""
    ids = {site: jnp.arange(len(of), dtype=jnp.int32) % len(recorder.row_of) for site, of in recorder.ids.items()}
    filled = {site: jnp.asarray(count, jnp.int32) for site in recorder.filled}
    return recorder.replace(ids=ids, filled=filled, needed=filled)
