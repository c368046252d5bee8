"""One run from its first segment to its last: prepared, announced, driven, saved, and resumed to the same bits.

The only loop of the house. Everything it calls is pure; everything it must remember is in `RunState`.
"""

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from neuron_mech import store
from neuron_mech.cluster import devices, processes
from neuron_mech.cluster.stopping import stopping
from neuron_mech.config import Config, Model
from neuron_mech.errors import InputError, Interrupted, RunError
from neuron_mech.precision import multiplying
from neuron_mech.recording import partitions
from neuron_mech.recording.design import Tallies
from neuron_mech.recording.live import LiveView
from neuron_mech.recording.online import Online
from neuron_mech.runs import costs, measuring, planning, study, trajectories
from neuron_mech.runs.epochs import Segment, plan_epoch
from neuron_mech.runs.planning import RunState
from neuron_mech.runs.segments import Recording, advancing
from neuron_mech.runs.study import Study
from neuron_mech.runs.trajectories import Trajectories
from neuron_mech.store import parameters, provenance
from neuron_mech.store.checkpoints import Checkpoints
from neuron_mech.taps import sample_mixing
from neuron_mech.training import datasets, fingerprints
from neuron_mech.training.datasets import Dataset


@dataclass(frozen=True)
class Run:
    """A finished run: what it studied and what it found."""

    study: Study
    dataset: Dataset
    state: RunState
    mixing: Mapping[str, float]
    """Per site, `sample_mixing.mixing` of the derivatives recorded; empty in mode eval, where samples cannot mix."""
    trajectories: Trajectories
    """Pre-activations kept through training."""
    directory: Path
    """Where its files are."""

    @property
    def tallies(self) -> Tallies:
        """{objective: {site: Tally}} in the config's order, one row a recorded sample, as in `study.recorded`."""
        return study.tallies(self.study, self.state.recorded)


def run(
    config: Config,
    directory: Path,
    data_dir: Path | None = None,
    save_seconds: float = 60.0,
    say: Callable[[str], None] = tqdm.write,
    live: Path | None = None,
) -> Run:
    """Run `config` to its end in `directory` (held open by `store.opened`), from wherever it was left.

    Saves every `save_seconds`, at the end, and on a signal of STOPPING (then raises Interrupted). `live` is a directory
    for a `LiveView`, written at the end of every epoch. Raises InputError before work starts, for other data or
    settings than it was begun with too, and RunError for a loss that is not finite or a state that cannot be saved.
    """
    with multiplying(config.train.precision):
        return _run(config, directory, data_dir, save_seconds, say, live)


def _run(
    config: Config,
    directory: Path,
    data_dir: Path | None,
    save_seconds: float,
    say: Callable[[str], None],
    live: Path | None,
) -> Run:
    check_trained_here(config.model)
    if parameters.exported(directory):
        raise InputError(
            f"{directory} is an export, whose tallies and checkpoints did not come along, so nothing is trained or "
            "recorded there: name another --run-dir"
        )
    dataset, facts = data(config, data_dir)
    what, train = planning.study(config, dataset)
    begun = planning.abstract_state(what, train)
    said = costs.announce(what, costs.cost(what, dataset, begun), directory)
    store.bind(directory, facts)
    say(said)
    mixing = measuring.mixing(what, train, dataset)
    if mixed := {site: value for site, value in mixing.items() if value > sample_mixing.LIMIT}:
        say(
            f"samples mix at {', '.join(mixed)}: a recorded derivative depends on the rest of its batch "
            f"(record.mode {config.record.mode}); record.mode eval keeps samples apart"
        )

    with Checkpoints(directory / "checkpoints", facts) as saves, stopping() as received:
        restored = saves.restore(begun)
        if restored is None:
            if saves.aside.exists():
                say(f"no checkpoint is left in {saves.directory}: beginning again; damaged ones are in {saves.aside}")
            state, done = begun, 0
        else:
            for line in restored.damaged:
                say(line)
            state, done = restored.state, restored.step
            if done < what.segments:
                say(f"resuming {directory} at epoch {done / what.segments_per_epoch:.1f} of {config.train.epochs}")
                if other := provenance.others(directory):
                    say(f"not to the bits of a run left alone: it was begun on another machine ({'; '.join(other)})")
        kept = Trajectories(directory / "trajectories", what.watches, state.watched, trajectories.weights(what))
        if done < what.segments:
            kept.verify(done)
            with provenance.timed(directory, "training"):
                recorder = study.recorder(what, None if restored is None else state.recorded)
                state = state.replace(recorded={})  # the host's copy goes
                steps = what.config.train.epochs * what.batches * done // what.segments
                with LiveView(live, steps) if live is not None else nullcontext() as view:
                    state = _drive(what, dataset, state, recorder, done, saves, kept, save_seconds, received, view)
    return Run(what, dataset, state, mixing, kept, directory)


def data(config: Config, data_dir: Path | None = None) -> tuple[Dataset, dict[str, Any]]:
    """(the data set that `config` is trained on, the facts of its runs; see `identity`).

    Raises InputError where it is not there, or cannot be trained on.
    """
    dataset = datasets.load(config.data, data_dir)
    if isinstance(dataset.train, datasets.Stream):
        raise InputError(
            f"{config.data.name} is read as a stream, and nothing is trained on one: choose a data set that fits in "
            "memory, or set model.weights to keras or random and run quantization or binarization"
        )
    facts = fingerprints.of(config, dataset)
    dealt = config.data.labels == "random"
    return datasets.with_random_labels(dataset, config.train.seed) if dealt else dataset, facts


def check_trained_here(model: Model) -> None:
    """Refuse a network whose weights come from elsewhere, or are never trained. Raises InputError."""
    if model.weights is not None:
        raise InputError(
            f"model.weights is {model.weights}, so nothing is trained here: run quantization or binarization on it, or "
            "choose a preset that is trained"
        )


def _drive(
    what: Study,
    dataset: Dataset,
    state: RunState,
    recorder: Recording,
    done: int,
    saves: Checkpoints,
    kept: Trajectories,
    save_seconds: float,
    received: list[int],
    view: LiveView | None,
) -> RunState:
    """The loop over the remaining segments."""
    recorded = dataset.train.rows(what.recorded)
    samples = devices.replicate(dataset.train, what.design.mesh)
    advance = advancing(what)
    look = {watch.name: jax.jit(partial(trajectories.read, what, watch)) for watch in kept.watching}
    measure = measuring.measures(what, dataset)

    history = {name: np.array(values) for name, values in state.history.items()}
    train, at_saturation = devices.replicate(state.train, what.design.mesh), state.at_saturation
    at_half = state.at_half
    pending: list[tuple[int, jax.Array, list, list]] = []
    saved, last_save = done, time.monotonic()

    def settle() -> None:
        """Take over the losses and trajectories that are due, or stop where a loss is not finite."""
        for first, losses, seen, weights in pending:
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
            for watch, row, found in seen:
                kept.write(watch, row, *jax.device_get(found))
            for row, flat in weights:
                kept.write_weights(row, jax.device_get(flat))
        pending.clear()

    def everything() -> RunState:
        """The state in the order of a single device, on every process."""
        found = {} if recorder is None else recorder.state
        return RunState(devices.on_one(train), found, at_saturation, at_half, history, kept.watched)

    def save() -> None:
        nonlocal saved, last_save
        settle()
        kept.sync()
        saves.save(done, everything())
        saved, last_save = done, time.monotonic()

    per_epoch = what.segments_per_epoch
    steps_done = (done // per_epoch) * what.batches + (done % per_epoch) * what.config.record.every
    with tqdm(total=history["loss"].size, initial=steps_done, unit="batch", desc=what.config.preset) as bar:
        plan: list[Segment] | None = None
        while done < what.segments:
            epoch, index = divmod(done, per_epoch)
            if plan is None or index == 0:
                plan = plan_epoch(what, epoch)
            first = epoch * what.batches + index * what.config.record.every
            here = devices.on_one(train)  # every process looks for itself
            seen = [(watch, row, look[watch.name](here, recorded)) for watch, row in kept.due(done)]
            weights = [(row, trajectories.flat(here.params)) for row in kept.weights_due(done)]
            train, recorder, losses = advance(train, recorder, samples, *plan[index])
            settle()  # the segment before, while this one runs
            pending.append((first, losses, seen, weights))
            done += 1
            if index == per_epoch - 1:
                recorder = recorder.end_epoch() if isinstance(recorder, Online) else recorder
                settle()
                measured = measure(devices.on_one(train), recorder)
                for name, values in measured.items():
                    history[name][..., epoch] = values
                saturated = measured["train_accuracy"] >= what.config.record.saturation
                if saturated and history["saturation_epoch"][0] < 0:
                    history["saturation_epoch"][0] = epoch + 1
                    main = {} if recorder is None else recorder.counts()
                    at_saturation = {s: (np.array(t.positive), np.array(t.negative)) for s, t in main.items()}
                if epoch + 1 == what.config.train.epochs // 2 and recorder is not None:
                    so_far = recorder.counts().items()
                    at_half = {s: np.asarray(partitions.categories(t.positive, t.negative)) for s, t in so_far}
                if view is not None:
                    loss = float(history["loss"][epoch * what.batches : (epoch + 1) * what.batches].mean())
                    accuracy = {name: measured[name] for name in ("train_accuracy", "test_accuracy")}
                    view((epoch + 1) * what.batches, recorder, loss=loss, **accuracy)
                bar.set_postfix(loss=f"{history['loss'][first]:.4f}", test=f"{measured['test_accuracy']:.4f}")
            bar.update(len(losses))
            late = time.monotonic() - last_save > save_seconds
            stop, due = processes.agreed(received[0] if received else 0, late)
            if stop or due:
                save()
            if stop:
                said = f"saved at step {first + len(losses)}; the same command goes on from there"
                raise Interrupted(stop, f"{signal.Signals(stop).name}: {said}")
        if saved < done:
            save()
    return everything()
