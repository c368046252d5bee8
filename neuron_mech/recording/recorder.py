"""A recorder that a training loop of one's own calls: a pytree that counts the signs of fixed samples' derivatives.

recorder = neuron_mech.recorder(model, variables, images, labels, "Dense_*", recordings=1000)
for batch in batches:
    recorder = recorder.update(variables)      # before the batch's step, as often as one likes
    variables = step(variables, batch)
figures.average_sign_histograms(recorder.signs())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization, struct
from jaxtyping import Array, Float, Int, PyTree, UInt8

from neuron_mech.cluster import jax_settings
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import counting, partitions, separation, summaries
from neuron_mech.recording.auditing import SignHealth
from neuron_mech.recording.counting import Tally
from neuron_mech.recording.design import Design, keep, record
from neuron_mech.recording.summaries import Recorded
from neuron_mech.store import identity
from neuron_mech.taps.objectives import check_labels


class Recorder(struct.PyTreeNode):
    """Counts of the signs of fixed samples' derivatives, so far. Made by `recorder`.

    A pytree of arrays: it goes through `jit` and `lax.scan` as it is, and into a checkpoint as `state`.
    """

    tallies: dict[str, Tally]
    """By site; each of shape (samples, positions ..., neurons)."""
    count: Int[Any, ""]
    """Recordings so far."""
    kept: dict[str, Any]
    """Pre-activations at some recordings, (recordings, samples, values), in the order of `design.keeps`; or nothing."""
    inputs: PyTree
    labels: PyTree
    rows: Int[Any, " samples"]
    """Which of the user's samples these are."""
    design: Design = struct.field(pytree_node=False)

    def update(self, variables: Mapping[str, Any]) -> Recorder:
        """The recorder after one more recording with these variables: what `model.apply` takes, `{"params": ...}`.

        Under a `jit` of the user's own it is pure. Called outside, it is compiled, and uses up this recorder's arrays
        for the new one's. Raises InputError where the shapes of the variables are not those the recorder was made for,
        where it has no room for another recording, or where it has been used up.
        """
        design = self.design
        design.check(variables)
        leaves = jax.tree.leaves((self, variables))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            tallies = record(design, self.tallies, variables, self.inputs, self.labels)
            kept = self.kept
            if kept:
                due = jnp.any(jnp.asarray(design.keeps) == self.count)
                now = partial(keep, design)
                kept = jax.lax.cond(due, now, lambda before, *_: before, kept, self.count, variables, self.inputs)
            return self.replace(tallies=tallies, kept=kept, count=self.count + 1)
        if any(leaf.is_deleted() for leaf in leaves if isinstance(leaf, jax.Array)):
            raise InputError("this recorder was used up by an earlier update: go on with what update returned")
        self.check_room(int(self.count) + 1)
        if design.stepwise:
            tallies = self.tallies
            for start in range(0, len(self.rows), design.chunk):
                size = min(design.chunk, len(self.rows) - start)
                part = (variables, self.inputs, self.labels, np.int32(start))
                tallies = design.compiled_chunk(tallies, *part, size=size)
        else:
            tallies = design.compiled_record(self.tallies, variables, self.inputs, self.labels)
        kept = self.kept
        if int(self.count) in design.keeps:
            kept = design.compiled_keep(kept, self.count, variables, self.inputs)
        return self.replace(tallies=tallies, kept=kept, count=self.count + 1)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint needs, as nested dictionaries of arrays. The samples are the user's own data.

        `chosen` is a fingerprint of which samples, neurons and positions are counted, and of the labels.
        """
        whole = serialization.to_state_dict(self)
        return {name: whole[name] for name in ("tallies", "count", "kept")} | {"chosen": self._chosen}

    @property
    def _chosen(self) -> UInt8[np.ndarray, " bytes"]:
        parts = (self.rows, self.labels, dict(self.design.neurons), dict(self.design.positions))
        digests = (identity.digest(leaf) for leaf in jax.tree.leaves(parts))
        return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8)

    def restored(self, state: Mapping[str, Any]) -> Recorder:
        """This recorder, made anew as it was made at first, with the `state` of a checkpoint.

        Raises InputError where it counts other samples, neurons or positions than the one that was saved.
        """
        if not np.array_equal(state.get("chosen", self._chosen), self._chosen):
            raise InputError(
                "the saved recorder counted other samples, neurons or positions, or had other labels: make this one of "
                "the same data, with the same samples=, neurons=, positions= and seed="
            )
        saved = {name: state[name] for name in ("tallies", "count", "kept")}
        found = serialization.from_state_dict(self, {**serialization.to_state_dict(self), **saved})
        return self.replace(tallies=found.tallies, count=found.count, kept=found.kept)

    def check_room(self, count: int) -> None:
        """Raise InputError where so many recordings are more than the counts have room for."""
        if count > self.design.recordings:
            raise InputError(
                f"{count} recordings, but the recorder was made for recordings={self.design.recordings}: its counts "
                "would overflow; make it with as many as you will record"
            )

    @property
    def counted(self) -> dict[str, Tally]:
        """The tallies, once it is known that they did not overflow under `jit`."""
        self.check_room(int(self.count))
        return self.tallies

    @property
    def recorded(self) -> dict[str, Recorded]:
        """What `summaries` takes: tallies and the neurons they are of, by site."""
        return {site: Recorded(tally, self.design.indices(site), site) for site, tally in self.counted.items()}

    def average_sign(self, site: str) -> Float[Array, samples * values]:
        """In [-1, 1], of every (sample, position, neuron); NaN where no derivative was ever nonzero."""
        tally = self.counted[site]
        return counting.average_sign(tally.positive, tally.negative)

    def constancy(self) -> dict[str, float]:
        """{site: share of pairs with |average sign| > 0.9}."""
        counts = {s: counting.constant_counts(t.positive, t.negative) for s, t in self.counted.items()}
        return {site: counting.constancy(*both) for site, both in counts.items()}

    def partition(self, site: str) -> Int[Array, samples * values]:
        """+1 low, -1 high, 0 none: which way each sample is pushed by each neuron."""
        tally = self.counted[site]
        return partitions.categories(tally.positive, tally.negative)

    def signs(self, seed: int = 0) -> xr.Dataset:
        """What gradient_signs.nc holds of a run, for figures 1 and 5 (`figures.average_sign_histograms`)."""
        rng = np.random.default_rng(seed)
        shown = {site: int(rng.choice(at.neurons)) for site, at in self.recorded.items()}
        return summaries.of_signs(self.recorded, int(self.count), shown)

    def classes(self, classes: int, labels: Array | None = None, seed: int = 0) -> xr.Dataset:
        """What class_consistency.nc holds of a run, for figure 8 (`figures.class_consistency`).

        `labels` are class indices of the recorded samples, those the recorder was given unless said otherwise.
        """
        of = jnp.asarray(self.labels if labels is None else labels)
        if of.shape != self.rows.shape or not jnp.issubdtype(of.dtype, jnp.integer):
            raise InputError(
                f"labels are {of.dtype}{list(of.shape)}: figure 8 needs one class index for each of {len(self.rows)} "
                "samples"
            )
        check_labels(of, classes, "labels")
        with jax_settings.standard():
            order = np.asarray(jax.random.permutation(jax.random.key(seed), len(of)))
        dealt = of[order]
        found = [summaries.of_classes(site, at, of, dealt, classes) for site, at in self.recorded.items()]
        return summaries.with_sites(found, self.recorded)

    def dynamics(self, seed: int = 0) -> xr.Dataset:
        """What learning_dynamics.nc holds of a run, for `figures.separation` and figure 2 (`figures.dynamics`).

        Its epochs are recordings. Of a feature map, one random position of each sample is followed; figure 2's are the
        first three neurons. Raises InputError where no pre-activations were kept.
        """
        if not self.kept:
            raise InputError("no pre-activations were kept: make the recorder with keep=40, or as many as to keep")
        rng, labels = np.random.default_rng(seed), np.asarray(self.labels)
        ids = np.asarray(self.rows)
        if labels.shape != ids.shape:
            labels = np.zeros(len(ids), int)
        done = [index for index, at in enumerate(self.design.keeps) if at < int(self.count)]
        at = np.asarray(self.design.keeps)[done]
        coords: dict[str, object] = {
            "site": list(self.recorded),
            "label": ("site", list(self.recorded)),
            "wide_epoch": at,
            "close_epoch": at,
            "close_sample": ids,
        }
        wide, close = [], []
        for site, (tally, neurons, _) in self.recorded.items():
            positions = int(np.prod(tally.positive.shape[1:-1]))
            where = (np.arange(len(ids)), rng.integers(positions, size=len(ids)))
            flat = (len(ids), positions, len(neurons))
            category = np.asarray(self.partition(site)).reshape(flat)[where]
            values = np.asarray(self.kept[site], np.float32)[done].reshape(-1, *flat)[:, *where]
            of = jax.tree.map(np.asarray, jax.jit(counting.neuron_counts)(tally))
            apart = separation.of_separation(site, neurons, values, category, rng)
            wide.append(apart.assign(summaries.of_neurons(site, neurons, of)))
            close.append(separation.of_watched(site, neurons[:3], values[..., :3], category[:, :3], len(ids)))
        return separation.of_dynamics(wide, close, coords, labels).assign_attrs(
            steps=int(self.count), epochs=int(self.count), time="recording"
        )

    def audit(self, variables: Mapping[str, Any], samples: int = 64) -> dict[str, SignHealth]:
        """{site: shares of signs that double precision contradicts}, of the first samples; see `auditing`.

        Raises InputError where the model cannot be computed in double precision.
        """
        some = jax.tree.map(lambda leaf: leaf[:samples], (self.inputs, self.labels))
        return self.design.audit(variables, *some)

    def followed_by(self, later: Recorder) -> Recorder:
        """One recorder of two stretches of training, of the same samples: all counts and flips are exact."""
        if not np.array_equal(self.rows, later.rows) or self.tallies.keys() != later.tallies.keys():
            raise InputError("two stretches can be put together of the same samples and sites only")
        tallies = {site: counting.merged(tally, later.counted[site]) for site, tally in self.counted.items()}
        one, two, done = self.design, later.design, int(self.count)
        first, second = (
            [row for row, at in enumerate(each.design.keeps) if at < int(each.count)] for each in (self, later)
        )
        keeps = (*(one.keeps[row] for row in first), *(done + two.keeps[row] for row in second))
        kept = {
            site: jnp.concatenate([values[: len(first)], later.kept[site][: len(second)]])
            for site, values in self.kept.items()
        }
        design = replace(two, recordings=done + two.recordings, keeps=keeps if kept else ())
        return later.replace(tallies=tallies, count=self.count + later.count, kept=kept, design=design)

    def beside(self, other: Recorder) -> Recorder:
        """One recorder of two that recorded other samples alongside, as on two devices or hosts."""
        if int(self.count) != int(other.count) or self.tallies.keys() != other.tallies.keys():
            raise InputError(
                f"recorders side by side need the same sites and recordings, not {int(self.count)} and "
                f"{int(other.count)}"
            )
        if shared := set(np.asarray(self.rows).tolist()) & set(np.asarray(other.rows).tolist()):
            raise InputError(f"both recorders count sample {min(shared)}: side by side they need other samples")
        both = lambda axis: lambda *leaves: jnp.concatenate([jnp.asarray(leaf) for leaf in leaves], axis)  # noqa: E731
        parts = ("tallies", "inputs", "labels", "rows")
        joined = {name: jax.tree.map(both(0), getattr(self, name), getattr(other, name)) for name in parts}
        return self.replace(**joined, kept=jax.tree.map(both(1), self.kept, other.kept))
