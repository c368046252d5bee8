"""One run from its first segment to its last: prepared, trained and recorded, saved, and resumed to the same bits.

This is the package's only training loop. What it calls is pure; all that changes is in `RunState`.
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
from neuron_mech.runs import costs, measuring, planning, trajectories
from neuron_mech.runs import study as studies
from neuron_mech.runs.planning import RunState
from neuron_mech.runs.segments import Recording, Segment, advancing, plan_epoch
from neuron_mech.runs.study import Study
from neuron_mech.runs.trajectories import Trajectories
from neuron_mech.store import parameters, provenance
from neuron_mech.store.checkpoints import Checkpoints
from neuron_mech.taps import sample_mixing
from neuron_mech.training import datasets, fingerprints
from neuron_mech.training.datasets import Dataset


@dataclass(frozen=True)
class Run:
    """A finished run: its study, its data, and its final state."""

    study: Study
    dataset: Dataset
    state: RunState
    mixing: Mapping[str, float]
    """`sample_mixing.mixing` of the recorded derivatives by site; empty in mode eval, where samples cannot mix."""
    trajectories: Trajectories
    """Pre-activations and parameters kept through training."""
    directory: Path
    """The run's directory."""

    @property
    def tallies(self) -> Tallies:
        """{objective: {site: Tally}} in the config's order; row k of a tally is sample `study.recorded[k]`."""
        return studies.tallies(self.study, self.state.recorded)


def run(
    config: Config,
    directory: Path,
    data_dir: Path | None = None,
    save_seconds: float = 60.0,
    say: Callable[[str], None] = tqdm.write,
    live: Path | None = None,
) -> Run:
    """Run `config` to its end in `directory` (locked by `store.opened`), starting from its newest checkpoint.

    A run that was stopped anywhere ends in the same bits as one left alone, on the same machine; one that is finished
    is only read. What it takes in memory and on disk is said before work starts.

    Arguments:
        config: what to train and to record.
        directory: the run's directory.
        data_dir: where TensorFlow Datasets keeps prepared data; None for its default.
        save_seconds: seconds between checkpoints; 0 saves after every segment. One is also saved at the end, and on a
            signal of STOPPING, after which Interrupted is raised.
        say: called with each line of text about the run.
        live: a directory for a `LiveView`, written at the end of every epoch; None for none.

    Returns:
        The finished `Run`: its `state.train.variables` are the network, its `tallies` the counts.

    Raises InputError before work starts, also for other data or settings than the run was begun with, and RunError for
    a loss that is not finite or a state that cannot be saved.

    ```python
    from pathlib import Path
    from neuron_mech import runs, store
    from neuron_mech.config import PRESETS

    config, directory = PRESETS["digits"], Path("runs/mine")
    with store.opened(directory, config):
        done = runs.run(config, directory)
    pushed_down = done.tallies["margin"]["dense2"].positive / done.study.recordings  # share of recordings, by pair
    ```
    """
    check_trained_here(config.model)
    if parameters.exported(directory):
        raise InputError(
            f"{directory} is an export, whose tallies and checkpoints did not come along, so nothing is trained or "
            "recorded there: name another --run-dir"
        )
    dataset, facts = data(config, data_dir)
    study, train = planning.study(config, dataset)
    begun = planning.abstract_state(study, train)
    said = costs.announce(study, costs.cost(study, dataset, begun), directory)
    store.bind(directory, facts)
    say(said)
    with (
        multiplying(config.train.precision),
        Checkpoints(directory / "checkpoints", facts) as saves,
        stopping() as received,
    ):
        mixing = measuring.mixing(study, train, dataset)
        if mixed := {site: value for site, value in mixing.items() if value > sample_mixing.LIMIT}:
            say(
                f"samples mix at {', '.join(mixed)}: a recorded derivative depends on the rest of its batch "
                f"(record.mode {config.record.mode}); record.mode eval keeps samples apart"
            )
        state, done = _restored(study, begun, saves, directory, say)
        kept = Trajectories(directory / "trajectories", study.watches, state.watched, trajectories.weights(study))
        if done < study.segments:
            kept.verify(done)
            with provenance.timed(directory, "training"):
                recorder = studies.recorder(study, state.recorded if done else None)
                state = state.replace(recorded={})  # frees the host's copy
                steps = config.train.epochs * study.batches * done // study.segments
                with LiveView(live, steps) if live is not None else nullcontext() as view:
                    state = _drive(study, dataset, state, recorder, done, saves, kept, save_seconds, received, view)
    return Run(study, dataset, state, mixing, kept, directory)


def _restored(
    study: Study, begun: RunState, saves: Checkpoints, directory: Path, say: Callable[[str], None]
) -> tuple[RunState, int]:
    """(the state of the newest checkpoint, its number of finished segments); (`begun`, 0) where there is none."""
    restored = saves.restore(begun)
    if restored is None:
        if saves.aside.exists():
            say(f"no checkpoint is left in {saves.directory}: beginning again; damaged ones are in {saves.aside}")
        return begun, 0
    for line in restored.damaged:
        say(line)
    if restored.step < study.segments:
        epoch = restored.step / study.segments_per_epoch
        say(f"resuming {directory} at epoch {epoch:.1f} of {study.config.train.epochs}")
        if other := provenance.others(directory):
            say(f"not to the bits of a run left alone: it was begun on another machine ({'; '.join(other)})")
    return restored.state, restored.step


def data(config: Config, data_dir: Path | None = None) -> tuple[Dataset, dict[str, Any]]:
    """(the data set that `config` is trained on, the facts that identify its runs; see `store.identity`).

    Raises InputError where the data set is not prepared, or cannot be trained on.
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
    """Raise InputError for a network that is not trained by a run: its weights are given, or stay random."""
    if model.weights is not None:
        raise InputError(
            f"model.weights is {model.weights}, so nothing is trained here: run quantization or binarization on it, or "
            "choose a preset that is trained"
        )


def _drive(
    study: Study,
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
    """Train and record the remaining segments; returns the final state."""
    recorded = dataset.train.rows(study.recorded)
    samples = devices.replicate(dataset.train, study.design.mesh)
    advance = advancing(study)
    look = {watch.name: jax.jit(partial(trajectories.read, study, watch)) for watch in kept.watching}
    measure = measuring.measures(study, dataset)

    history = {name: np.array(values) for name, values in state.history.items()}
    train, at_saturation = devices.replicate(state.train, study.design.mesh), state.at_saturation
    at_half = state.at_half
    pending: list[tuple[int, jax.Array, list, list]] = []
    saved, last_save = done, time.monotonic()

    def settle() -> None:
        """Store the losses and trajectories of finished segments. Raises RunError for a loss that is not finite."""
        for first, losses, seen, weights in pending:
            history["loss"][first : first + len(losses)] = losses
            if not np.isfinite(losses).all():
                step = first + int(np.argmin(np.isfinite(losses)))
                raise RunError(
                    f"the loss is {history['loss'][step]} at step {step} (epoch {step // study.batches + 1}) with "
                    f"train.learning_rate {study.config.train.learning_rate}: lower it; the last good checkpoint is "
                    + ("none, it came too early" if saves.latest is None else str(saves.directory / str(saves.latest)))
                )
            for watch, row, found in seen:
                kept.write(watch, row, *jax.device_get(found))
            for row, flat in weights:
                kept.write_weights(row, jax.device_get(flat))
        pending.clear()

    def everything() -> RunState:
        """The whole state, with samples in their original order, in every process."""
        found = studies.recorded(recorder)
        return RunState(devices.on_one(train), found, at_saturation, at_half, history, kept.watched)

    def save() -> None:
        nonlocal saved, last_save
        settle()
        kept.sync()
        saves.save(done, everything())
        saved, last_save = done, time.monotonic()

    per_epoch = study.segments_per_epoch
    steps_done = (done // per_epoch) * study.batches + (done % per_epoch) * study.config.record.every
    with tqdm(total=history["loss"].size, initial=steps_done, unit="batch", desc=study.config.preset) as bar:
        plan: list[Segment] | None = None
        while done < study.segments:
            epoch, index = divmod(done, per_epoch)
            if plan is None or index == 0:
                plan = plan_epoch(study, epoch)
            first = epoch * study.batches + index * study.config.record.every
            here = devices.on_one(train)  # every process reads by itself
            seen = [(watch, row, look[watch.name](here, recorded)) for watch, row in kept.due(done)]
            weights = [(row, trajectories.flat(here.params)) for row in kept.weights_due(done)]
            train, recorder, losses = advance(train, recorder, samples, *plan[index])
            settle()  # of the segment before, while this one runs
            pending.append((first, losses, seen, weights))
            done += 1
            if index == per_epoch - 1:
                recorder = recorder.end_epoch() if isinstance(recorder, Online) else recorder
                settle()
                measured = measure(devices.on_one(train), recorder)
                for name, values in measured.items():
                    history[name][..., epoch] = values
                saturated = measured["train_accuracy"] >= study.config.record.saturation
                if saturated and history["saturation_epoch"][0] < 0:
                    history["saturation_epoch"][0] = epoch + 1
                    main = {} if recorder is None else recorder.counts()
                    at_saturation = {s: (np.array(t.positive), np.array(t.negative)) for s, t in main.items()}
                if epoch + 1 == study.config.train.epochs // 2 and recorder is not None:
                    so_far = recorder.counts().items()
                    at_half = {s: np.asarray(partitions.categories(t.positive, t.negative)) for s, t in so_far}
                if view is not None:
                    loss = float(history["loss"][epoch * study.batches : (epoch + 1) * study.batches].mean())
                    accuracy = {name: measured[name] for name in ("train_accuracy", "test_accuracy")}
                    view((epoch + 1) * study.batches, recorder, loss=loss, **accuracy)
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
