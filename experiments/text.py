"""Past the paper: the hidden neurons of a small transformer's MLPs, on a text of your own.

    python -m experiments.text --text FILE

Trains a character transformer to predict the next character and records the signs of the derivatives at its MLPs'
hidden neurons with `neuron_mech.own`, which takes the model as it is. Then it asks what linear probes read from windows
of the neurons' ranges at the last position, with the untrained network as control. A run that is stopped starts over.
Writes into RUN_DIR figures/ (figure5, constancy_by_position, windows) and, last, text.nc.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
import xarray as xr
from jaxtyping import Array, Int
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.command_line import ask, exiting
from neuron_mech import binarization, figures, gradient_signs, own, partitions, probes, results
from neuron_mech.errors import InputError
from neuron_mech.figures.style import HIGH, NEUTRAL, SERIES, site_panels, style
from neuron_mech.presets import random_stream

SITES = "*/Dense_0"
"""The first Dense of every block, whose outputs are the hidden neurons' pre-activations."""
EVALUATED, FITTED, PROBED = 10_000, 4000, 2000
"""Samples: of each split for the network's accuracy; training and test samples of a probe, which are the first of them.
"""
CENTERS = tuple(range(5, 100, 10))
"""Percentile ranks of the windows' centers; each is ten ranks wide."""


@dataclass(frozen=True)
class TextOptions:
    """Options of this experiment."""

    text: Path
    """File of plain text in UTF-8. Its last tenth is the test set."""
    run_dir: Path = Path("runs/text")
    """Directory for the results."""
    depth: int = 3
    """Blocks."""
    width: int = 128
    """Values a position between blocks: a multiple of 4, the heads. An MLP has four times as many hidden neurons."""
    context: int = 32
    """Characters that the next one is predicted from."""
    steps: int = 3200
    """Training steps, of AdamW."""
    batch: int = 64
    """Samples a step."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    every: int = 20
    """Steps from one recording to the next."""
    samples: int = 500
    """Training samples that are recorded, chosen at random."""
    neurons: int = 128
    """Neurons of each block that are recorded, chosen at random."""
    positions: int | None = None
    """Positions of the context that are recorded, chosen at random. None means all."""
    penalty: float = 0.03
    """Of a probe, on its squared weights."""
    seed: int = 0
    """All that is random follows from it."""


class Block(nn.Module):
    """Attention to what came before, then an MLP; each is added to what passes by."""

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """(batch, positions, width), to the same."""
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x))))


class Transformer(nn.Module):
    """Logits of the character that follows a context, (batch, vocabulary)."""

    vocabulary: int
    depth: int
    width: int

    @nn.compact
    def __call__(self, characters: Int[Array, "batch context"]) -> Array:
        """From indices of characters."""
        position = nn.Embed(characters.shape[1], self.width)(jnp.arange(characters.shape[1]))
        x = nn.Embed(self.vocabulary, self.width)(characters) + position[None]
        for _ in range(self.depth):
            x = Block()(x, nn.make_causal_mask(characters))
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x[:, -1]))


def read_text(path: Path, context: int) -> tuple[dict[str, Int[np.ndarray, " characters"]], int]:
    """({split: the text as indices of its characters}, how many different ones). Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"--text {path} cannot be read ({said}): name a file of plain text") from None
    if len(text) < (fewest := 10 * (context + 100)):
        raise InputError(
            f"--text {path} has {len(text)} characters, and {fewest} are needed for a hundred test samples in its last "
            "tenth: give a longer text, or a smaller --context"
        )
    characters, ids = np.unique(np.array(list(text)), return_inverse=True)
    train, test = np.split(ids.astype(np.int32), [len(ids) - len(ids) // 10])
    return {"train": train, "test": test}, len(characters)


def check(options: TextOptions) -> None:
    """Raise InputError for a number that no run can have."""
    for name, value in asdict(options).items():
        if isinstance(value, int | float) and value <= 0 and name != "seed":
            raise InputError(f"--{name.replace('_', '-')} is {value}: give a positive number")
    if options.width % 4:
        raise InputError(f"--width is {options.width}: give a multiple of 4, the heads")


def samples_at(ids: Array, starts: Array, context: int) -> tuple[Array, Array]:
    """(contexts that start there, the character that follows each). Pure."""
    return ids[starts[:, None] + jnp.arange(context)[None]], ids[starts + context]


def some(ids: np.ndarray, count: int, context: int, key: Array) -> tuple[Array, Array]:
    """So many different samples at random, or all where there are fewer."""
    return samples_at(jnp.asarray(ids), jax.random.permutation(key, len(ids) - context)[:count], context)


def train(
    model: Transformer, params: Any, recorder: own.Recorder, ids: Array, options: TextOptions
) -> tuple[Any, own.Recorder]:
    """(parameters, recorder) after training, with a recording before every `options.every` steps."""
    optimizer, key = optax.adamw(options.learning_rate), random_stream(options.seed, "batches")

    def step(state: tuple[Any, Any], index: Array) -> tuple[tuple[Any, Any], None]:
        params, moments = state
        starts = jax.random.randint(jax.random.fold_in(key, index), (options.batch,), 0, len(ids) - options.context)
        contexts, following = samples_at(ids, starts, options.context)

        def loss(params: Any) -> Array:
            logits = model.apply({"params": params}, contexts)
            return optax.softmax_cross_entropy_with_integer_labels(logits, following).mean()

        updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    run = jax.jit(lambda state, indices: jax.lax.scan(step, state, indices)[0])
    state = (params, optimizer.init(params))
    with tqdm(total=options.steps, desc="training", unit="step", disable=None) as bar:
        for start in range(0, options.steps, options.every):
            recorder = recorder.update({"params": state[0]})
            indices = jnp.arange(start, min(start + options.every, options.steps))
            state = jax.block_until_ready(run(state, indices))
            bar.update(len(indices))
    return state[0], recorder


@partial(jax.jit, static_argnums=0)
def evaluate(model: Transformer, params: Any, contexts: Array, following: Array) -> tuple[Array, Array]:
    """(accuracy, bits a character)."""
    logits = jax.lax.map(lambda one: model.apply({"params": params}, one[None])[0], contexts, batch_size=500)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, following)
    return (logits.argmax(-1) == following).mean(dtype=jnp.float32), nats.mean() / np.float32(np.log(2))


def signs_of(recorder: own.Recorder, context: int) -> xr.Dataset:
    """The recorder's dataset with sites named by block, and more of single positions; NaN where they are not recorded.

    Of the last block only the last position reaches the output: no other ever has a derivative.
    """
    signs = recorder.signs()
    # Short names in the place of the model's own paths.
    blocks = {str(site): f"block{index + 1}" for index, site in enumerate(signs.site.values)}
    known = {str(name) for name in (*signs.variables, *signs.dims)}
    ends = [(name, site) for name in known for site in blocks if name.endswith(f"_{site}")]
    signs = signs.rename({name: name.removesuffix(site) + blocks[site] for name, site in ends})
    signs = signs.assign_coords(
        site=list(blocks.values()), label=("site", [f"block {index + 1}" for index in range(len(blocks))])
    )
    constancy, independent, auc = (np.full((len(blocks), n), np.nan) for n in (context, context, 2))
    for row, (site, tally) in enumerate(recorder.counted.items()):
        chosen = recorder.design.positions[site]
        for index, position in enumerate(range(context) if chosen is None else chosen):
            at = jax.tree.map(lambda leaf, index=index: leaf[:, index], tally)
            counts = gradient_signs.constant_counts(at.positive, at.negative)
            constancy[row, position] = gradient_signs.constancy(*counts)
            if position == context - 1:
                independent[row, position] = np.nanmean(gradient_signs.independent_constancy(at))
                values, category = recorder.kept[site][:, :, index], recorder.partition(site)[:, index]
                auc[row] = np.nanmean(partitions.separation(np.asarray(values), np.asarray(category)).auc, axis=1)
    last = "of the context's last position"
    described: dict[str, tuple[Any, np.ndarray, str]] = {
        "position_constancy": (("site", "before"), constancy[:, ::-1], "share of |average sign| > 0.9 by position"),
        "last_constancy": ("site", constancy[:, -1], f"share of |average sign| > 0.9 {last}"),
        "last_independent_constancy": ("site", independent[:, -1], f"control: the same {last} of independent signs"),
        "auc": (("site", "recording"), auc, f"AUC of high over low pre-activations {last}, mean over neurons"),
    }
    found = {name: (dims, values, results.about("1", said)) for name, (dims, values, said) in described.items()}
    return signs.assign(found).assign_coords(before=np.arange(1, context + 1), recording=["first", "last"])


def windows_of(
    model: Transformer, params: Mapping[str, Any], split: Mapping[str, tuple[Array, Array]], penalty: float
) -> np.ndarray:
    """Test accuracies of linear probes on the last position's 0/1 codes: (blocks, sources of `params`, windows)."""
    labels = {name: np.asarray(following) for name, (_, following) in split.items()}

    @jax.jit
    def read(params: Any, contexts: Array) -> dict[str, Array]:
        values = own.read(model, {"params": params}, contexts, SITES)[1]
        return {site: at[:, -1] for site, at in values.items()}

    found = np.empty((model.depth, len(params), len(CENTERS)))
    with tqdm(total=found.size, desc="probes", unit="probe", disable=None) as bar:
        for column, variables in enumerate(params.values()):
            values = {name: read(variables, contexts) for name, (contexts, _) in split.items()}
            for row, site in enumerate(values["train"]):
                windows = binarization.at_centers(values["train"][site], CENTERS, 10.0)
                for index in range(len(CENTERS)):
                    window = jax.tree.map(lambda edges, index=index: edges[index], windows)
                    codes = {name: np.asarray(window(at[site]), np.uint8) for name, at in values.items()}
                    probe = probes.fit(codes["train"], labels["train"], model.vocabulary, penalty)
                    found[row, column, index] = probes.accuracy(probe, codes["test"], labels["test"])
                    bar.update()
    return found


def figure_by_position(found: xr.Dataset) -> Figure:
    """Constancy at each position of the context, a line a block. `found` is text.nc."""
    with style():
        figure = Figure(figsize=(6.4, 3.0))
        axes = figure.subplots()
        for index, site in enumerate(found.site.values):
            at = found.sel(site=site).dropna("before", subset=["position_constancy"])
            label = at.label.item() + (": last position only" if at.sizes["before"] == 1 else "")
            axes.plot(at.before, at.position_constancy, "o-", ms=3, color=SERIES[index % 7], label=label)
        axes.set_xlim(found.sizes["before"] + 0.5, 0.5)
        axes.set_xticks(np.unique(np.linspace(1, found.sizes["before"], 5).round()))
        axes.set_ylim(0, 1)
        axes.set_xlabel("position in the context (characters before the predicted one)")
        axes.set_ylabel("share of constant signs\n(|average sign| > 0.9)")
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def figure_of_windows(found: xr.Dataset) -> Figure:
    """Accuracy of linear probes on one window, by its center; untrained neurons lighter. `found` is text.nc."""
    with style():
        figure, panels = site_panels(found.site.values, found.label.values)
        accuracy = float(found.accuracy.sel(split="test"))
        for site, axes in panels:
            axes.axhline(accuracy, color="black", ls="--", lw=1, label="the network")
            for source, color, width in (("trained", HIGH, 2.0), ("untrained", SERIES[1], 1.0)):
                curve = found.window_accuracy.sel(site=site, source=source)
                axes.plot(curve.window_center, curve, ".-", color=color, lw=width, label=f"{source} neurons")
            axes.axhline(float(found.chance), color=NEUTRAL, ls=":", lw=1, label="most frequent character")
            axes.set_xlim(0, 100)
            axes.set_ylim(0, 1.1 * max(accuracy, float(found.window_accuracy.max())))
            axes.set_xlabel("percentile rank of the window's center")
            axes.set_ylabel("test accuracy")
        figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def summary(found: xr.Dataset) -> str:
    """What the network reached; of every block constancy, separation, and the windows' lowest and highest accuracy."""
    accuracy, bits = ([float(value) for value in found[name]] for name in ("accuracy", "bits"))
    lines = [
        f"test accuracy {accuracy[1]:.1%} (training {accuracy[0]:.1%}), {bits[1]:.2f} bits a character "
        f"({bits[0]:.2f}); most frequent character {float(found.chance):.1%}",
        f"{'':8}{'constant':>10}{'independent':>13}{'last position':>15}{'independent':>13}{'AUC, first and last':>21}"
        f"{'windows, trained':>18}{'untrained':>16}",
    ]
    for site in found.site.values:
        at = found.sel(site=site)
        names = ("constancy", "independent_constancy", "last_constancy", "last_independent_constancy")
        shares = (f"{at[name].item():>{width}.1%}" for name, width in zip(names, (10, 13, 15, 13), strict=True))
        auc = ", ".join(f"{value:.3f}" for value in at.auc.values)
        spans = (at.window_accuracy.sel(source=source) for source in ("trained", "untrained"))
        trained, untrained = (f"{span.min().item():.1%}-{span.max().item():.1%}" for span in spans)
        lines.append(f"{at.label.item():8}{''.join(shares)}{auc:>21}{trained:>18}{untrained:>16}")
    return "\n".join(lines)


def measure(options: TextOptions, text: Mapping[str, Int[np.ndarray, " characters"]], vocabulary: int) -> xr.Dataset:
    """Train, record and probe: what text.nc holds."""
    stream, context = partial(random_stream, options.seed), options.context
    model = Transformer(vocabulary, options.depth, options.width)
    samples = some(text["train"], options.samples, context, stream("recorded samples"))
    initial = model.init(stream("initialisation"), samples[0][:1])["params"]
    chosen = {name: getattr(options, name) for name in ("neurons", "positions", "seed")}
    recordings = -(-options.steps // options.every)
    plan = own.plan(model, {"params": initial}, *samples, SITES, recordings=recordings, keep=2, **chosen)
    print(plan)
    trained, recorder = train(model, initial, plan.recorder(), jnp.asarray(text["train"]), options)
    split = {name: some(ids, EVALUATED, context, stream(name)) for name, ids in text.items()}
    accuracy, bits = np.array([evaluate(model, trained, *part) for part in split.values()]).T
    params = {"trained": trained, "untrained": initial}
    probed = {name: (split[name][0][:n], split[name][1][:n]) for name, n in (("train", FITTED), ("test", PROBED))}
    windows = windows_of(model, params, probed, options.penalty)
    chance = (split["test"][1] == np.bincount(split["train"][1]).argmax()).mean(dtype=jnp.float32).item()
    read = "test accuracy of a linear probe on one window of the last position's hidden neurons"
    described: dict[str, tuple[Any, Any, str, str]] = {
        "accuracy": ("split", accuracy, "1", "share of characters predicted"),
        "bits": ("split", bits, "bit", "cross-entropy a character"),
        "chance": ((), chance, "1", "share of the training set's most frequent character in the test set"),
        "window_accuracy": (("site", "source", "window_center"), windows, "1", read),
    }
    coords = {"split": list(text), "source": list(params), "window_center": list(CENTERS)}
    found = signs_of(recorder, context).assign_coords(coords)
    found = found.assign({name: (dims, of, results.about(*said)) for name, (dims, of, *said) in described.items()})
    stored = {name: value for name, value in asdict(options).items() if isinstance(value, int | float)}
    return found.assign_attrs(stored | {"vocabulary": vocabulary})


def experiment(options: TextOptions) -> None:
    """Measure, draw, print, and write text.nc, last. Raises InputError before anything is trained."""
    text, vocabulary = read_text(options.text, options.context)
    check(options)
    with results.held(options.run_dir) as directory:
        found = measure(options, text, vocabulary)
        results.write_figure(directory, "figure5", figures.average_sign_histograms(found))
        results.write_figure(directory, "constancy_by_position", figure_by_position(found))
        results.write_figure(directory, "windows", figure_of_windows(found))
        results.write_dataset(directory / "text.nc", found)
    print(summary(found))
    print(f"results: {directory / 'text.nc'}; figures: {directory / 'figures'}")


def main() -> None:
    """The command line."""
    arguments = sys.argv[1:]
    if not {"--text", "-h", "--help"} & {argument.partition("=")[0] for argument in arguments}:
        raise InputError("no text given: python -m experiments.text --text FILE, a file of plain text")
    experiment(ask(TextOptions, TextOptions(text=tyro.MISSING), arguments, "text", __doc__ or ""))


if __name__ == "__main__":
    exiting(main)
