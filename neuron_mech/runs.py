"""One run from its first segment to its last: prepared, announced, driven, saved, and resumed to the same bits.

The only loop of the house. Everything it calls is pure; everything it must remember is in `RunState`.
"""

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from flax import struct
from jax.typing import ArrayLike
from tqdm import tqdm

from neuron_mech import checkpoints, datasets, gradient_signs, models, recording, taps, training
from neuron_mech.checkpoints import Checkpoints
from neuron_mech.datasets import Dataset
from neuron_mech.errors import InputError, Interrupted, RunError
from neuron_mech.objectives import OBJECTIVES
from neuron_mech.presets import Config
from neuron_mech.recording import Counts, Study, Tallies
from neuron_mech.training import TrainState

SATURATION_SAMPLES = 10_000
"""Training accuracy is measured on this many random training samples, or on all where there are fewer."""


class RunState(struct.PyTreeNode):
    """All that a resumed run needs; the number of finished segments is the checkpoint's step.

    `at_saturation` holds the main objective's (positive, negative) counts at the end of the epoch in which training
    accuracy first reached `record.saturation`: zeros until then. `history` holds one value a step or an epoch, NaN
    where the run has not been yet.
    """

    train: TrainState
    counts: Counts
    at_saturation: dict[str, tuple[np.ndarray, np.ndarray]]
    history: dict[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """A finished run: what it studied and what it found."""

    study: Study
    dataset: Dataset
    state: RunState
    mixing: Mapping[str, float]
    """Per site, `taps.mixing` of the derivatives as recorded; empty in mode probe, where samples cannot mix."""

    @property
    def tallies(self) -> Tallies:
        """{objective: {site: Tally}} in the config's order, one row a recorded sample, as in `study.recorded`."""
        return _ordered(self.study, self.state.counts.tallies)


def _ordered(what: Study, tallies: Tallies) -> Tallies:
    """The tallies in the config's order of objectives and sites: JAX returns dicts sorted."""
    return {o: {site: tallies[o][site] for site in what.sites} for o in what.config.objectives if o in tallies}


def study(config: Config, dataset: Dataset) -> tuple[Study, TrainState]:
    """What a run studies, and the state it starts from. Raises InputError for sites, samples or neurons not there."""
    model = models.build(config.model, dataset.classes)
    size = len(dataset.train)
    if config.record.samples != "all" and config.record.samples > size:
        raise InputError(f"record.samples is {config.record.samples}, but {dataset.name} has {size} training samples")
    if config.train.batch_size > size:
        raise InputError(
            f"train.batch_size is {config.train.batch_size}, but {dataset.name} has {size} training samples"
        )
    one = dataset.train.rows(np.arange(1))
    state = training.init(config, model, one)
    chosen = taps.select(taps.sites(model, state.variables, one.inputs), config.record.sites)
    neurons = {name: recording.recorded_neurons(config, name, site.shape[-1]) for name, site in chosen.items()}
    found = Study(
        config,
        model,
        training.optimizer(config),
        chosen,
        neurons,
        recording.random_ids(config, size, config.record.samples),
        size,
    )
    return found, state


def start(study: Study, train: TrainState) -> RunState:
    """The state before the first segment."""
    epochs, counts = study.config.train.epochs, study.empty_counts()
    history = {
        "loss": np.full(study.batches * epochs, np.nan, np.float32),
        "train_accuracy": np.full(epochs, np.nan, np.float32),
        "test_accuracy": np.full(epochs, np.nan, np.float32),
        "saturation_epoch": np.full(1, -1, np.int32),
    }
    if counts.tallies:
        history["constancy"] = np.full((len(study.config.objectives), len(study.sites), epochs), np.nan)
    at_saturation = {
        site: (
            np.zeros(tally.positive.shape, tally.positive.dtype),
            np.zeros(tally.positive.shape, tally.positive.dtype),
        )
        for site, tally in counts.tallies.get(study.config.record.objective, {}).items()
    }
    return RunState(train, counts, at_saturation, history)


@dataclass(frozen=True)
class Cost:
    """Bytes a run takes at most, by what they are for."""

    counts: int
    device: int
    disk: int


def cost(study: Study, dataset: Dataset, state: RunState) -> Cost:
    """Bytes on the device and on disk, from shapes alone, before anything runs."""
    counts = sum(leaf.nbytes for leaf in jax.tree.leaves(state.counts))
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(state.train.params))
    image = dataset.train.images.nbytes // len(dataset.train)
    values = sum(int(np.prod(site.shape)) for site in study.sites.values())
    chunk = min(study.config.record.chunk, len(study.recorded))
    # A chunk's inputs, and at each site its value, its gradient, and one temporary, in float32.
    working = chunk * 4 * (image + 3 * values * len(study.config.objectives))
    saved = checkpoints.nbytes(state)
    return Cost(
        counts=counts,
        device=dataset.nbytes + image * len(study.recorded) + 4 * parameters + counts + working,
        disk=(checkpoints.KEEP + 1) * saved,
    )


def announce(study: Study, cost: Cost, directory: Path) -> str:
    """One line that says what the run will take. Raises InputError, naming fields to change, where it cannot fit."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    room = stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else psutil.virtual_memory().available
    record = study.config.record
    if cost.device > room:
        raise InputError(
            f"recording needs {_size(cost.device)} of {device.platform} memory and {_size(room)} are free: lower "
            f"record.samples (now {len(study.recorded)}), record.neurons (now {record.neurons}) or record.chunk "
            f"(now {record.chunk}), or name fewer record.sites (now {', '.join(study.sites)})"
        )
    free = shutil.disk_usage(directory).free
    already = sum(f.stat().st_size for f in (directory / "checkpoints").rglob("*") if f.is_file())
    if cost.disk - already > free:
        raise InputError(
            f"checkpoints need up to {_size(cost.disk)} in --run-dir {directory} and {_size(free)} are free: make "
            f"room, name another directory, or lower record.samples (now {len(study.recorded)}) or record.neurons"
        )
    if record.mode == "none":
        return f"no recording; {_size(cost.device)} on the device, up to {_size(cost.disk)} on disk in {directory}"
    pairs = sum(int(np.prod(study.value_shape(site))) for site in study.sites)
    return (
        f"{study.recordings:,} recordings ({record.mode}) of {len(study.recorded):,} samples x {pairs:,} values at "
        f"{', '.join(study.sites)}: {_size(cost.counts)} of counts, {_size(cost.device)} on the device, up to "
        f"{_size(cost.disk)} on disk in {directory}"
    )


def run(
    config: Config,
    directory: Path,
    data_dir: Path | None = None,
    save_seconds: float = 60.0,
    say: Callable[[str], None] = tqdm.write,
) -> Run:
    """Run `config` to its end in `directory` (held open by `results.opened`), from wherever it was left.

    Saves every `save_seconds`, at the end, and on SIGTERM or SIGINT (then raises Interrupted). Raises InputError
    before work starts, and RunError for a loss that is not finite or a state that cannot be saved.
    """
    dataset = datasets.load(config.data, data_dir)
    what, train = study(config, dataset)
    state = start(what, train)
    say(announce(what, cost(what, dataset, state), directory))
    mixing = _mixing(what, train, dataset)
    if mixed := {site: value for site, value in mixing.items() if value > taps.MIXING_LIMIT}:
        say(
            f"samples mix at {', '.join(mixed)}: a recorded derivative depends on the rest of its batch "
            f"(record.mode {config.record.mode}); record.mode probe keeps samples apart"
        )

    with Checkpoints(directory / "checkpoints") as saves, _signals() as received:
        restored = saves.restore(state)
        done = 0
        if restored is not None:
            for line in restored.damaged:
                say(line)
            state, done = restored.state, restored.step
            if done < what.segments:
                say(f"resuming {directory} at epoch {done / what.segments_per_epoch:.1f} of {config.train.epochs}")
        if done < what.segments:
            state = _drive(what, dataset, state, done, saves, save_seconds, received)
    return Run(what, dataset, state, mixing)


def _drive(
    what: Study,
    dataset: Dataset,
    state: RunState,
    done: int,
    saves: Checkpoints,
    save_seconds: float,
    received: list[int],
) -> RunState:
    """The loop over the remaining segments."""
    recorded = dataset.train.rows(what.recorded)
    advance = jax.jit(partial(recording.segment, what), donate_argnums=(0, 1))
    end_epoch = jax.jit(recording.end_epoch, donate_argnums=0)
    measure = _measures(what, dataset)

    history = {name: np.array(values) for name, values in state.history.items()}
    train, counts, at_saturation = state.train, state.counts, state.at_saturation
    pending: list[tuple[int, jax.Array]] = []
    saved, last_save = done, time.monotonic()

    def settle() -> None:
        """Take over the losses that are due, or stop where one is not finite."""
        for first, losses in pending:
            history["loss"][first : first + len(losses)] = losses
            if not np.isfinite(losses).all():
                step = first + int(np.argmin(np.isfinite(losses)))
                raise RunError(
                    f"the loss is {history['loss'][step]} at step {step} (epoch {step // what.batches + 1}) with "
                    f"train.learning_rate {what.config.train.learning_rate}: lower it; the last good checkpoint is "
                    + (
                        f"{saves.directory / str(saves.latest)}"
                        if saves.latest is not None
                        else "none, it came too early"
                    )
                )
        pending.clear()

    def save() -> None:
        nonlocal saved, last_save
        settle()
        saves.save(done, RunState(train, counts, at_saturation, history))
        saved, last_save = done, time.monotonic()

    per_epoch = what.segments_per_epoch
    steps_done = (done // per_epoch) * what.batches + (done % per_epoch) * what.config.record.every
    with tqdm(total=history["loss"].size, initial=steps_done, unit="batch", desc=what.config.preset) as bar:
        plan: recording.Epoch | None = None
        while done < what.segments:
            epoch, index = divmod(done, per_epoch)
            if plan is None or index == 0:
                plan = recording.plan_epoch(what, epoch)
            first = epoch * what.batches + index * what.config.record.every
            train, counts, losses = advance(train, counts, dataset.train, recorded, *plan.segments[index])
            settle()  # the segment before, while this one runs
            pending.append((first, losses))
            done += 1
            if index == per_epoch - 1:
                counts = end_epoch(counts, plan.positions)
                settle()
                measured = measure(train, counts.tallies)
                for name, values in measured.items():
                    history[name][..., epoch] = values
                saturated = measured["train_accuracy"] >= what.config.record.saturation
                if saturated and history["saturation_epoch"][0] < 0:
                    history["saturation_epoch"][0] = epoch + 1
                    main = counts.tallies.get(what.config.record.objective, {})
                    at_saturation = {s: (np.array(t.positive), np.array(t.negative)) for s, t in main.items()}
                bar.set_postfix(loss=f"{history['loss'][first]:.4f}", test=f"{measured['test_accuracy']:.4f}")
            bar.update(len(losses))
            if received:
                save()
                name = signal.Signals(received[0]).name
                raise Interrupted(
                    received[0], f"{name}: saved at step {first + len(losses)}; the same command goes on from there"
                )
            if time.monotonic() - last_save > save_seconds:
                save()
        if saved < done:
            save()
    return RunState(train, counts, at_saturation, history)


def _measures(what: Study, dataset: Dataset) -> Callable[[TrainState, Tallies], dict[str, Any]]:
    """What is measured at the end of an epoch: accuracies, and constancy so far by objective and site."""
    ids = recording.random_ids(what.config, what.samples, SATURATION_SAMPLES)
    some = dataset.train.rows(ids)
    accuracy = jax.jit(lambda variables, samples: training.accuracy(what.model, variables, samples))
    constant_counts = jax.jit(gradient_signs.constant_counts)

    def measure(train: TrainState, tallies: Tallies) -> dict[str, Any]:
        measured: dict[str, Any] = {
            "train_accuracy": float(accuracy(train.variables, some)),
            "test_accuracy": float(accuracy(train.variables, dataset.test)),
        }
        if tallies:
            measured["constancy"] = [
                [constancy(*constant_counts(t.positive, t.negative)) for t in at.values()]
                for at in _ordered(what, tallies).values()
            ]
        return measured

    return measure


def constancy(constant: ArrayLike, ever: ArrayLike) -> float:
    """Share of constant pairs from `gradient_signs.constant_counts`; NaN where no derivative was ever nonzero."""
    total = int(np.asarray(ever, np.int64).sum())
    return int(np.asarray(constant, np.int64).sum()) / total if total else float("nan")


def _mixing(what: Study, train: TrainState, dataset: Dataset) -> dict[str, float]:
    """Whether samples mix in the derivatives as this run records them; {} where they cannot."""
    if what.config.record.mode not in ("probe-train", "online"):
        return {}
    batch = dataset.train.rows(what.recorded[: max(4, min(32, len(what.recorded)))])
    return taps.mixing(
        what.model,
        train.variables,
        batch.inputs,
        batch.labels,
        what.sites,
        OBJECTIVES["margin"],
        what.config.record.derivative,
        train=True,
        rngs={"dropout": train.key},
        mutable=list(train.statistics),
    )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGTERM and SIGINT, collected instead of obeyed: the loop ends at the next segment, with its state saved."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return
    before = {s: signal.signal(s, lambda number, _: received.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
