"""Is an early signal of a transformer constant at the last position only because later tokens' losses mix elsewhere?

A position's activation serves its own prediction and all later ones: its derivative is the sum over q >= p of those of
the losses at q. Here a character transformer learns to predict at every position, and a recorder counts the signs of
two derivatives: of the whole loss, and of the loss at one position q alone, drawn for each recorded sequence. The
second's constancy, by the distance q - p, says what a single token's loss does. Writes later_tokens.nc and a figure.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, Int

import neuron_mech
from experiments.command_line import exiting
from experiments.text import transformer
from experiments.text.options import TextOptions, agree, parse
from neuron_mech import store
from neuron_mech.config import random_stream
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper import figures
from neuron_mech.recording import constancies, counting
from neuron_mech.recording.counting import Tally
from neuron_mech.store.checkpoints import Checkpoints
from neuron_mech.taps.objectives import margin, right

SITES = "*/Dense_0"
"""The first Dense of every block, whose outputs are the hidden neurons' pre-activations."""

DEFAULT = TextOptions(tyro.MISSING, Path("runs/later_tokens"), width=64, steps=1000, every=10, samples=300, neurons=64)


EveryPosition = partial(transformer.Transformer, every_position=True)
"""A transformer that predicts the character that follows each position."""


def whole(logits: Float[Array, "batch context vocabulary"], labels: tuple[Array, Array]) -> Float[Array, " batch"]:
    """The sum over positions of cross-entropies, softplus(margin): the sizes of single losses matter for its signs."""
    return nn.softplus(margin(logits, labels[0])).sum(-1)


def at_one(logits: Float[Array, "batch context vocabulary"], labels: tuple[Array, Array]) -> Float[Array, " batch"]:
    """The margin at one position of each sequence, the second of `labels`: the signs of the cross-entropy there."""
    following, chosen = labels
    logits = jnp.take_along_axis(logits, chosen[:, None, None], axis=1)[:, 0]
    return margin(logits, jnp.take_along_axis(following, chosen[:, None], axis=1)[:, 0])


@partial(jax.jit, static_argnames="context")
def contexts(ids: Array, starts: Array, context: int) -> tuple[Array, Array]:
    """(contexts that start there, the character that follows each of their positions). Pure."""
    of = ids[starts[:, None] + jnp.arange(context + 1)[None]]
    return of[:, :-1], of[:, 1:]


def by_distance(tally: Tally, chosen: Int[np.ndarray, " samples"]) -> Float[np.ndarray, " distances"]:
    """Constancy of (sample, neuron) pairs by distance q - p, 0 first, of the tally of `at_one`'s signs."""
    counts = [np.asarray(part) for part in (tally.positive, tally.negative)]
    found = np.full(counts[0].shape[1], np.nan)
    for distance in range(len(found)):
        rows = np.flatnonzero(chosen >= distance)
        up, down = (part[rows, chosen[rows] - distance] for part in counts)
        found[distance] = counting.constancy(*counting.constant_counts(up, down))
    return found


def by_position(tally: Tally) -> Float[np.ndarray, " distances"]:
    """Constancy of (sample, neuron) pairs by distance to the last position, 0 first."""
    tally = jax.device_get(tally)
    parts = [tally.part((slice(None), p)) for p in reversed(range(tally.positive.shape[1]))]
    return np.array([counting.constancy(*counting.constant_counts(at.positive, at.negative)) for at in parts])


def measure(options: TextOptions, text: dict[str, np.ndarray], vocabulary: int, saves: Checkpoints) -> xr.Dataset:
    """Train, record, and sort constancy by distance: what later_tokens.nc holds."""
    stream, context = partial(random_stream, options.seed), options.context
    model = EveryPosition(vocabulary, options.depth, options.width)
    ids = jnp.asarray(text["train"])
    starts = jax.random.permutation(stream("recorded samples"), len(ids) - context - 1)[: options.samples]
    inputs, following = contexts(ids, starts, context)
    chosen = jax.random.randint(stream("positions of losses"), (len(inputs),), 0, context)
    initial = model.init(stream("initialisation"), inputs[:1])["params"]
    common = {"recordings": -(-options.steps // options.every), "neurons": options.neurons, "seed": options.seed}
    losses, labels = {"whole": whole, "one": at_one}, (following, chosen)
    recorder = neuron_mech.recorder(model, {"params": initial}, inputs, labels, SITES, loss=losses, **common)
    params, recorder = transformer.train(model, initial, recorder, ids, options, saves, contexts)
    one, every = (list(recorder.counts(name).values()) for name in ("one", "whole"))
    of_one = [by_distance(tally, np.asarray(chosen)) for tally in one]
    independent = [np.nanmean(constancies.independent_constancy(tally)) for tally in one]
    starts = jnp.arange(0, len(text["test"]) - context - 1, context)
    test, answers = contexts(jnp.asarray(text["test"]), starts, context)
    logits = jax.jit(model.apply)({"params": params}, test[:500])
    accuracy = right(logits, answers[:500]).mean(dtype=jnp.float32)
    dims, said = ("block", "distance"), "share of |average sign| > 0.9"
    variables = {
        "one_constancy": store.variable(dims, of_one, f"{said} of one position's loss, by its distance"),
        "whole_constancy": store.variable(
            dims, [by_position(tally) for tally in every], f"{said} of the whole loss, by distance to the last position"
        ),
        "independent": store.variable(
            "block", independent, f"control: {said} of one position's loss, were its signs independent"
        ),
        "accuracy": store.variable("", float(accuracy), "share of the test set's characters predicted"),
    }
    stored = {name: value for name, value in asdict(options).items() if isinstance(value, int | float)}
    blocks = [f"block {index + 1}" for index in range(len(one))]
    return xr.Dataset(variables, {"block": blocks, "distance": np.arange(context)}).assign_attrs(stored)


def summary(found: xr.Dataset) -> str:
    """Constancy of one position's own loss and of distant ones, beside the whole loss, in words."""
    far = found.sizes["distance"] // 2
    lines = [f"test accuracy {float(found.accuracy):.1%}"]
    for block in found.block.values:
        at = found.sel(block=block)
        own, later = float(at.one_constancy[0]), float(at.one_constancy[far])
        last, middle = float(at.whole_constancy[0]), float(at.whole_constancy[far])
        lines.append(
            f"{block}: loss at one position {own:.1%} at distance 0, {later:.1%} at {far}; whole loss {last:.1%} at "
            f"the last position, {middle:.1%} at {far} before it; independent signs {float(at.independent):.1%}"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    options = parse(DEFAULT, "text.later_tokens", __doc__ or "")
    text, vocabulary = transformer.read_text(options.text, options.context)
    with store.held(options.run_dir) as directory:
        with Checkpoints(directory / "checkpoints", agree(directory, options, text)) as saves:
            found = measure(options, text, vocabulary, saves)
        from experiments.text.pictures import figure_by_distance  # with matplotlib

        figures.write_figure(directory, "constancy_by_distance", figure_by_distance(found))
        store.write_dataset(directory / "later_tokens.nc", found)
    print(f"{summary(found)}\nresults: {directory / 'later_tokens.nc'}; figure: {directory / 'figures'}")


if __name__ == "__main__":
    exiting(main)
