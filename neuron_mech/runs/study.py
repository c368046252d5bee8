"""The fixed part of a run: its config, its network, and the plan of its recorder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np
import optax
from flax import serialization
from jaxtyping import Int

from neuron_mech import training
from neuron_mech.cluster import devices
from neuron_mech.config import Config, random_stream
from neuron_mech.recording.counting import Tally
from neuron_mech.recording.design import Design, Tallies
from neuron_mech.recording.online import Online, begin
from neuron_mech.recording.plan import Plan
from neuron_mech.recording.recorder import Recorder
from neuron_mech.recording.watching import Watch
from neuron_mech.taps import Site


@dataclass(frozen=True)
class Study:
    """The fixed part of a run: config, network, recorded sites and neurons, and the sizes that follow from them."""

    config: Config
    model: nn.Module
    optimizer: optax.GradientTransformation
    plan: Plan
    """What is recorded, of which training samples."""
    samples: int
    """Size of the training set."""
    watches: tuple[Watch, ...] = ()
    """The pre-activations that are kept through training (see `trajectories`)."""

    @property
    def design(self) -> Design:
        """The design of its recorder."""
        return self.plan.design

    @property
    def sites(self) -> dict[str, Site]:
        """The recorded sites."""
        return dict(self.design.sites)

    @property
    def recorded(self) -> Int[np.ndarray, " recorded"]:
        """Ids of the recorded training samples, in the tallies' row order. A site with n of them has the first n."""
        return self.plan.rows

    @property
    def batches(self) -> int:
        """Batches in an epoch, including the last, smaller one."""
        return training.batches(self.config, self.samples)

    @property
    def segments_per_epoch(self) -> int:
        """Segments in an epoch: in modes eval and train, also its recordings."""
        return -(-self.batches // self.config.record.every)

    @property
    def segments(self) -> int:
        """Segments of the whole run."""
        return self.segments_per_epoch * self.config.train.epochs

    @cached_property
    def recordings(self) -> int:
        """Number of recordings of each sample over the whole run."""
        return {"none": 0, "online": self.config.train.epochs}.get(self.config.record.mode, self.segments)

    def label(self, site: str) -> str:
        """The site with its activation function, as the paper writes it: dense1-relu."""
        return f"{site}-{self.config.model.activation}"


def random_ids(config: Config, samples: int, count: int | Literal["all"]) -> Int[np.ndarray, " count"]:
    """`count` random ids of training samples: the first of one permutation, so that smaller choices are nested."""
    order = np.asarray(jax.random.permutation(random_stream(config.train.seed, "recorded samples"), samples))
    return order[: None if count == "all" else count].astype(np.int32)


def recorded_neurons(config: Config, site: str, neurons: int) -> np.ndarray | None:
    """Indices of the recorded neurons of a site, ascending; None for all."""
    if config.record.neurons == "all" or config.record.neurons >= neurons:
        return None
    key = random_stream(config.train.seed, f"recorded neurons of {site}")
    return np.sort(np.asarray(jax.random.permutation(key, neurons))[: config.record.neurons])


def abstract_recorded(study: Study) -> dict[str, Any]:
    """The shapes of the recorder's part of a checkpoint; no memory is allocated for it."""
    if study.config.record.mode == "none":
        return {}
    if study.config.record.mode != "online":
        return study.plan.abstract_state()
    whole = serialization.to_state_dict(jax.eval_shape(partial(_online, study)))
    return {name: part for name, part in whole.items() if name != "row_of"}


def recorded(recorder: Recorder | Online | None) -> dict[str, Any]:
    """The recorder's part of a checkpoint. What an online one counts is not in it: the run's identity says that."""
    found = {} if recorder is None else recorder.state
    return {name: part for name, part in found.items() if name != "chosen" or isinstance(recorder, Recorder)}


def recorder(study: Study, state: Mapping[str, Any] | None = None) -> Recorder | Online | None:
    """The run's recorder, before the first recording or from the `state` in a checkpoint; None in mode none."""
    if study.config.record.mode == "none":
        return None
    if study.config.record.mode != "online":
        return study.plan.recorder(state)
    online = _online(study)
    if state is not None:
        online = online.restored({**state, "chosen": online.chosen})
    return devices.replicate(online, study.design.mesh)


def beside(study: Study, recordings: int) -> Recorder:
    """A recorder beside the run's own: of the main objective in evaluation mode, on one device, before it has begun."""
    design, chunk = study.design, study.config.record.chunk
    main = {design.main: design.losses[design.main]}
    evaluated = replace(design, losses=main, batched=False, keeps=(), rngs=None, kwargs=None)
    alone = replace(evaluated, recordings=recordings, chunk=chunk, mesh=devices.alone())
    return replace(study.plan, design=alone).recorder()


def _online(study: Study) -> Online:
    # A batch writes a row for each of its samples, recorded or not, so there must be room for one more batch.
    return begin(study.design, study.samples, study.recorded, study.config.train.batch_size)


def tallies(study: Study, state: Mapping[str, Any]) -> Tallies:
    """{objective: {site: Tally}} of a recorder's state, in the config's order of objectives and sites."""
    found = state.get("tallies", {})
    return {o: {s: Tally(**found[o][s]) for s in study.design.sites} for o in study.design.losses if o in found}
