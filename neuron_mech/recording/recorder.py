"""A recorder that a training loop calls: a pytree that counts the signs of fixed samples' derivatives.

recorder = neuron_mech.recorder(model, variables, images, labels, "Dense_*", recordings=1000)
for batch in batches:
    recorder = recorder.update(variables)      # before the batch's step, as often as one likes
    variables = step(variables, batch)
figures.average_sign_histograms(recorder.signs())

This package's own runs are such a loop (see `runs.segments`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jaxtyping import Array, Float, Int, PyTree, UInt8

from neuron_mech.cluster import devices
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import counting, partitions, sameness, separation, summaries
from neuron_mech.recording.auditing import SignHealth
from neuron_mech.recording.counting import Tally
from neuron_mech.recording.design import Moment, Samples, Tallies
from neuron_mech.recording.reading import Counted


class Recorder(Counted):
    """Counts of the signs of fixed samples' derivatives, so far. Made by `recorder`.

    A pytree of arrays: it goes through `jit` and `lax.scan` as it is, and into a checkpoint as `state`. Where the
    network's variables are on several devices, each of them records a share of the samples.
    """

    tallies: Tallies
    """By loss and site; each of shape (samples, positions ..., neurons), its rows sharded among the devices."""
    count: Int[Any, ""]
    """Number of recordings so far."""
    kept: dict[str, Any]
    """Kept pre-activations by site, (samples, recordings, neurons), in the order of `design.keeps`; {} for none."""
    samples: Samples
    """The recorded samples, sharded among the devices as the tallies are."""
    rows: Int[Any, " samples"]
    """Indices of the recorded samples among the user's, in the order of the tallies' rows."""

    def update(self, variables: Mapping[str, Any], number: Int[Array, ""] | None = None) -> Recorder:
        """The recorder after one more recording with these variables, those of `model.apply`: `{"params": ...}`.

        Inside a `jit` it is pure. Outside, it is compiled and donates this recorder's arrays: go on with the new one.
        `number` is folded into the random keys of models with random layers; by default the number of recordings so
        far. Raises InputError where the variables' shapes are not those that the recorder was made for, where the
        counts have no room for another recording, or where this recorder's arrays were donated before.
        """
        design = self.design
        design.check(variables)
        leaves = jax.tree.leaves((self, variables))
        moment = Moment(variables, self.count if number is None else number)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            tallies = design.record_each(self.tallies, self.samples, moment)
            kept = self.kept
            if kept:
                due = jnp.any(jnp.asarray(design.keeps) == self.count)
                now = moment._replace(number=self.count)
                kept = jax.lax.cond(due, design.keep_each, lambda before, *_: before, kept, self.samples, now)
            return self.replace(tallies=tallies, kept=kept, count=self.count + 1)
        if any(leaf.is_deleted() for leaf in leaves if isinstance(leaf, jax.Array)):
            raise InputError("this recorder was used up by an earlier update: go on with what update returned")
        self.check_room(int(self.count) + 1)
        if design.stepwise:
            tallies = self.tallies
            for group, start, size in design.chunks():
                part = {loss: {site: of[site] for site in group.sites} for loss, of in tallies.items()}
                part = design.compiled_chunk(part, self.samples, moment, np.int32(start), size=size)
                tallies = {loss: of | part[loss] for loss, of in tallies.items()}
        else:
            tallies = design.compiled_record(self.tallies, self.samples, moment)
        kept = self.kept
        if int(self.count) in design.keeps:
            kept = design.compiled_keep(kept, self.samples, moment._replace(number=self.count))
        # A host number, so that reading it does not wait for the device.
        return self.replace(tallies=tallies, kept=kept, count=np.int32(self.count + 1))

    @property
    def state(self) -> dict[str, Any]:
        """The state for a checkpoint: nested dictionaries of host arrays in the samples' order.

        `chosen` is a fingerprint of the recorded samples, neurons and positions, and of the labels.
        """
        tallies = {loss: {s: self._gathered(s, of) for s, of in by.items()} for loss, by in self.tallies.items()}
        kept = {site: self._gathered(site, values) for site, values in self.kept.items()}
        found = {"tallies": serialization.to_state_dict(tallies), "count": np.asarray(self.count), "kept": kept}
        return {name: part for name, part in found.items() if name != "kept" or part} | {"chosen": self._chosen}

    def _gathered(self, site: str, tree: Any) -> Any:
        return devices.gather_rows(tree, self.design.rows[site])

    @property
    def _chosen(self) -> UInt8[np.ndarray, " bytes"]:
        return sameness.fingerprint(self.design, self.rows, devices.gather_rows(self.samples.labels, len(self.rows)))

    @property
    def _given(self) -> PyTree:
        """What the recorder was given of its samples, and which they are."""
        return self.rows, devices.gather_rows((self.samples.inputs, self.samples.labels), len(self.rows))

    def restored(self, state: Mapping[str, Any]) -> Recorder:
        """This recorder, made with the same arguments as the saved one, with the `state` of a checkpoint.

        It may have room for more recordings. Raises InputError where it has room for fewer than there are, or records
        other samples, neurons or positions, has other labels, or keeps pre-activations at other recordings.
        """
        if not np.array_equal(state["chosen"], self._chosen):
            further = ", keep= and recordings=" * bool(self.design.keeps)
            raise InputError(
                "the saved recorder counted other samples, neurons or positions, or had other labels: make this one of "
                f"the same data, with the same samples=, neurons=, positions= and seed={further}"
            )
        self.check_room(int(state["count"]))
        rows, mesh, recordings = self.design.rows, self.design.mesh, self.design.recordings
        place = lambda site, tree: devices.shard_rows(tree, rows[site], mesh)  # noqa: E731
        tallies = {
            loss: {site: place(site, sameness.with_room(Tally(**of), recordings)) for site, of in by_site.items()}
            for loss, by_site in state["tallies"].items()
        }
        # In their order here, since a checkpoint may have sorted them.
        tallies = {loss: {site: tallies[loss][site] for site in of} for loss, of in self.tallies.items()}
        kept = {site: place(site, values) for site, values in state.get("kept", {}).items()}
        return self.replace(tallies=tallies, count=devices.replicate(np.int32(state["count"]), mesh), kept=kept)

    @property
    def recordings(self) -> int:
        """Number of recordings so far."""
        return int(self.count)

    @property
    def labels(self) -> Array | np.ndarray:
        """The recorded samples' labels, in the order of the tallies' rows."""
        return devices.gather_rows(self.samples.labels, len(self.rows))

    def counts(self, loss: str | None = None) -> dict[str, Tally]:
        """{site: Tally} of a loss, by default the main one, with rows in the samples' order.

        Raises InputError where more recordings were made under `jit` than the counts have room for.
        """
        self.check_room(int(self.count))
        of = self.tallies[self.design.main if loss is None else loss]
        return {site: jax.tree.map(jnp.asarray, self._gathered(site, of[site])) for site in self.design.sites}

    def watched(self, site: str) -> tuple[Float[np.ndarray, "kept samples neurons"], Int[np.ndarray, " samples"]]:
        """(the kept pre-activations at a site, the position of each sample at which they were read)."""
        values = self._gathered(site, self.kept[site])
        return np.moveaxis(np.asarray(values), 1, 0), self._gathered(site, self.samples.places[site])

    def dynamics(self, seed: int = 0) -> xr.Dataset:
        """The dataset of learning_dynamics.nc, for `figures.separation` and figure 2 (`figures.dynamics`).

        Its epochs are recordings. Of a feature map, one random position of each sample is followed; figure 2 shows the
        first three neurons. `seed` is that of the controls. Raises InputError where no pre-activations were kept.
        """
        if not self.kept:
            raise InputError("no pre-activations were kept: make the recorder with keep=40, or as many as to keep")
        rng, labels, ids = np.random.default_rng(seed), np.asarray(self.labels), np.asarray(self.rows)
        if labels.shape != ids.shape:
            labels = np.zeros(len(ids), int)
        done = [index for index, at in enumerate(self.design.keeps) if at < self.recordings]
        at = np.asarray(self.design.keeps)[done]
        recorded = self.recorded()
        coords: dict[str, object] = {
            "site": list(recorded),
            "label": ("site", [of.label for of in recorded.values()]),
            "wide_epoch": at,
            "close_epoch": at,
            "close_sample": ids,
        }
        wide, close = [], []
        for site, (tally, neurons, _) in recorded.items():
            rows = len(tally.positive)
            values, places = self.watched(site)
            positions = self.design.positions[site]
            places = places if positions is None else np.searchsorted(positions, places)
            of_pairs = np.asarray(partitions.categories(tally.positive, tally.negative))
            category = of_pairs.reshape(rows, -1, len(neurons))[np.arange(rows), places]
            values = np.asarray(values, np.float32)[done]
            of = jax.tree.map(np.asarray, jax.jit(counting.neuron_counts)(tally))
            apart = separation.of_separation(site, neurons, values, category, rng)
            wide.append(apart.assign(summaries.of_neurons(site, neurons, of)))
            close.append(separation.of_watched(site, neurons[:3], values[..., :3], category[:, :3], len(ids)))
        return separation.of_dynamics(wide, close, coords, labels).assign_attrs(
            steps=self.recordings, epochs=self.recordings, time="recording"
        )

    def audit(self, variables: Mapping[str, Any], samples: int = 64) -> dict[str, SignHealth]:
        """{site: SignHealth} of the first `samples` samples, by comparison with double precision; see `auditing`.

        Samples are batches of one, as recorded, or with mixing="batch" batches of 20.
        Raises InputError where the model cannot be computed in double precision.
        """
        every = (self.samples.inputs, self.samples.labels)
        some = jax.tree.map(lambda leaf: jnp.asarray(leaf[:samples]), devices.gather_rows(every, len(self.rows)))
        return self.design.audit(variables, *some)

    def followed_by(self, later: Recorder) -> Recorder:
        """One recorder of two consecutive stretches of training, of the same samples, with exact counts and flips."""
        sameness.check_same(self.design, later.design, "one after the other")
        if not sameness.equal(self._given, later._given):
            raise InputError("two stretches can be put together of the same samples, inputs and labels, only")
        self.check_room(int(self.count))
        later.check_room(int(later.count))
        merged = {
            loss: {site: counting.merged(of[site], later.tallies[loss][site]) for site in of}
            for loss, of in self.tallies.items()
        }
        one, two, done = self.design, later.design, int(self.count)
        first, second = (
            [row for row, at in enumerate(each.design.keeps) if at < int(each.count)] for each in (self, later)
        )
        keeps = (*(one.keeps[row] for row in first), *(done + two.keeps[row] for row in second))
        kept = {
            site: jnp.concatenate([values[:, : len(first)], later.kept[site][:, : len(second)]], axis=1)
            for site, values in self.kept.items()
        }
        design = replace(two, recordings=done + two.recordings, keeps=keeps if kept else ())
        return later.replace(tallies=merged, count=np.int32(done + int(later.count)), kept=kept, design=design)

    def beside(self, other: Recorder) -> Recorder:
        """One recorder of two that recorded different samples of the same training, as in two programs or hosts.

        Every site must count all samples of both.
        """
        sameness.check_same(self.design, other.design, "side by side")
        if (int(self.count), self.design.keeps) != (int(other.count), other.design.keeps):
            raise InputError(
                f"recorders side by side need the same recordings, kept and in all, not {int(self.count)} and "
                f"{int(other.count)}"
            )
        mine, theirs = np.asarray(self.rows), np.asarray(other.rows)
        if shared := set(mine.tolist()) & set(theirs.tolist()):
            raise InputError(f"both recorders count sample {min(shared)}: side by side they need other samples")
        for each in (self, other):
            if fewer := [site for site, rows in each.design.rows.items() if rows < len(each.rows)]:
                raise InputError(f"{fewer[0]!r} counts fewer samples than there are: side by side all sites count all")
        rows = np.concatenate([mine, theirs])
        mesh = self.design.mesh

        def joined(one: Any, two: Any) -> Any:
            halves = devices.gather_rows(one, len(mine)), devices.gather_rows(two, len(theirs))
            both = jax.tree.map(lambda *parts: np.concatenate(parts), *halves)
            return devices.shard_rows(both, len(rows), mesh)

        parts = {name: joined(getattr(self, name), getattr(other, name)) for name in ("tallies", "kept", "samples")}
        design = replace(self.design, rows=dict.fromkeys(self.design.rows, len(rows)))
        return self.replace(**parts, rows=rows, design=design)
