"""A character transformer, which knows nothing of this package; its text; its training, which calls a recorder."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int
from tqdm import tqdm

import neuron_mech
from experiments.text.options import TextOptions
from neuron_mech.config import random_stream
from neuron_mech.errors import InputError
from neuron_mech.store.checkpoints import Checkpoints
from neuron_mech.taps.objectives import right

SAVE_SECONDS = 30.0
"""From one checkpoint of the training to the next."""


class Block(nn.Module):
    """Attention to what came before, then an MLP; each is added to what passes by."""

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """(batch, positions, width), to the same."""
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x))))


class Transformer(nn.Module):
    """Logits of the character that follows a context, (batch, vocabulary); or, by position, each character's."""

    vocabulary: int
    depth: int
    width: int
    every_position: bool = False

    @nn.compact
    def __call__(self, characters: Int[Array, "batch context"]) -> Array:
        """From indices of characters."""
        position = nn.Embed(characters.shape[1], self.width)(jnp.arange(characters.shape[1]))
        x = nn.Embed(self.vocabulary, self.width)(characters) + position[None]
        for _ in range(self.depth):
            x = Block()(x, nn.make_causal_mask(characters))
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x if self.every_position else x[:, -1]))


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


def samples_at(ids: Array, starts: Array, context: int) -> tuple[Array, Array]:
    """(contexts that start there, the character that follows each). Pure."""
    return ids[starts[:, None] + jnp.arange(context)[None]], ids[starts + context]


@partial(jax.jit, static_argnames=("count", "context"))
def some(ids: Array, count: int, context: int, key: Array) -> tuple[Array, Array]:
    """So many different samples at random, or all where there are fewer."""
    return samples_at(ids, jax.random.permutation(key, len(ids) - context)[:count], context)


def train(
    model: nn.Module,
    params: Any,
    recorder: neuron_mech.Recorder,
    ids: Array,
    options: TextOptions,
    saves: Checkpoints,
    drawn: Callable[[Array, Array, int], tuple[Array, Array]] = samples_at,
) -> tuple[Any, neuron_mech.Recorder]:
    """(parameters, recorder) after training, with a recording before every `options.every` steps.

    `drawn`: inputs and labels from the text, where they start, and the length of a context. Goes on from the newest of
    `saves`, to the same bits: what is drawn at a step depends on its number alone.
    """
    optimizer, key = optax.adamw(options.learning_rate), random_stream(options.seed, "batches")

    def step(state: tuple[Any, Any], index: Array) -> tuple[tuple[Any, Any], None]:
        params, moments = state
        starts = jax.random.randint(jax.random.fold_in(key, index), (options.batch,), 0, len(ids) - options.context)
        inputs, following = drawn(ids, starts, options.context)

        def loss(params: Any) -> Array:
            logits: Any = model.apply({"params": params}, inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, following).mean()

        updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    run = jax.jit(lambda state, indices: jax.lax.scan(step, state, indices)[0])
    state, done, saved = (params, jax.jit(optimizer.init)(params)), 0, time.monotonic()
    if restored := saves.restore({"network": state, "recorder": recorder.state}):
        state, done = restored.state["network"], restored.step
        recorder = recorder.restored(restored.state["recorder"])
    with tqdm(total=options.steps, initial=done, desc="training", unit="step", disable=None) as bar:
        while done < options.steps:
            recorder = recorder.update({"params": state[0]})
            indices = jnp.arange(done, min(done + options.every, options.steps))
            state = jax.block_until_ready(run(state, indices))
            done += len(indices)
            bar.update(len(indices))
            if done == options.steps or time.monotonic() - saved > SAVE_SECONDS:
                saves.save(done, {"network": state, "recorder": recorder.state})
                saved = time.monotonic()
    return state[0], recorder


@partial(jax.jit, static_argnums=0)
def evaluate(model: Transformer, params: Any, contexts: Array, following: Array) -> tuple[Array, Array]:
    """(accuracy, bits a character)."""
    logits = jax.lax.map(lambda one: model.apply({"params": params}, one[None])[0], contexts, batch_size=500)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, following)
    return right(logits, following).mean(dtype=jnp.float32), nats.mean() / np.float32(np.log(2))
