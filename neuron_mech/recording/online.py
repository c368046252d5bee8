"""A recorder of the derivatives that training computes anyway: of each batch, in the pass that trains on it.

recorder = neuron_mech.online(model, variables, images[:8], "Dense_*", samples=len(images), recordings=epochs)

def loss(params, perturbations):
    outputs = recorder.perturbed(perturbations)({"params": params}, batch.images)
    return per_sample(outputs, batch.labels).mean()

gradients, signs = jax.grad(loss, argnums=(0, 1))(params, recorder.perturbations(len(batch.ids)))
recorder = recorder.saw(signs, batch.ids)      # in the jitted step
...
recorder = recorder.end_epoch()                # from time to time, outside

This package's own runs are such a loop in their mode online (see `runs.segments`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jaxtyping import Array, Int, UInt8

from neuron_mech import taps
from neuron_mech.errors import InputError
from neuron_mech.precision import Arithmetic, multiplying
from neuron_mech.recording import counting, sameness
from neuron_mech.recording.counting import Tally
from neuron_mech.recording.design import Design, Tallies
from neuron_mech.recording.reading import Counted

NOWHERE = np.int32(2**30)
"""The row of a sample that is not recorded."""


class Online(Counted):
    """Counts of signs by sample, and the signs that were seen but are not counted yet. Made by `online`.

    Seen signs wait as bytes, in the order of the batches: writing one byte a step and counting once an epoch takes a
    third of the time of updating three scattered counts a step. Each of several devices holds all arrays. A pytree:
    it goes through `jit` and `lax.scan` as it is, and into a checkpoint as `state`.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> recorder = neuron_mech.online(
    ...     model, variables, x + jnp.arange(5.0)[:, None], "layers_2", samples=5, recordings=10
    ... )
    >>> @jax.jit
    ... def step(recorder):  # in training, where the parameters are differentiated by too
    ...     loss = lambda zeros: neuron_mech.margin(recorder.perturbed(zeros)(variables, x), labels).mean()
    ...     return recorder.saw(jax.grad(loss)(recorder.perturbations(5)), ids=jnp.arange(5))
    >>> recorder = step(recorder).end_epoch()
    >>> recorder.average_sign("layers_2")[:2].tolist()
    [[-1.0, 1.0, 1.0], [1.0, -1.0, 1.0]]
    """

    tallies: Tallies
    """By loss (there is one) and site; each of shape (samples, positions ..., neurons)."""
    waiting: dict[str, Int[Any, " room *values"]]
    """The signs that are not counted yet, by site. Rows after `filled` are overwritten."""
    ids: dict[str, Int[Any, " room"]]
    """The samples of the waiting signs."""
    filled: dict[str, Int[Any, ""]]
    """Number of waiting rows."""
    needed: dict[str, Int[Any, ""]]
    """Number of rows needed, which may exceed the room."""
    stray: Int[Any, ""]
    """An invalid id that was given, a negative one less 1; -1 where none was."""
    most: Int[Any, ""]
    """Largest number of recordings of any sample so far."""
    row_of: Int[Any, " samples"]
    """The row of each training sample in the tallies, or NOWHERE."""

    def perturbations(self, batch: int) -> dict[str, Array]:
        """{site: zeros of shape (batch, positions ..., neurons)}, with respect to which to differentiate the loss.

        `batch` is the number of samples in the step's batch: another, as of an epoch's last, needs its own zeros.
        """
        return taps.zeros(self.design.sites, batch)

    def perturbed(self, perturbations: Mapping[str, Array]) -> Callable[..., Any]:
        """`model.apply` with the perturbations at their sites, and in the recorder's precision, its derivatives too.

        The function that is returned takes the arguments of `model.apply`, those of training. It raises SiteError where
        a perturbation's shape is not that of its site in this batch.
        """
        apply = taps.perturbed(self.design.model, perturbations, self.design.derivative)
        arithmetic: Arithmetic = "float32" if self.design.precision == "exact" else "default"

        def run(*args: Any, **kwargs: Any) -> Any:
            with multiplying(arithmetic):
                return apply(*args, **kwargs)

        return run

    def saw(self, gradients: Mapping[str, Array], ids: Int[Array | np.ndarray, " batch"]) -> Online:
        """The recorder after a batch. Pure, for use in a jitted step, which should donate the recorder.

        Arguments:
            gradients: {site: derivatives of the batch's loss with respect to `perturbations`}, whole sites. A mean over
                the batch has the signs of the samples' own losses, but each of them is smaller.
            ids: row numbers of the batch's samples in the training set, integers from 0 to `samples` - 1, each as often
                as it came. Of samples that are not recorded nothing is kept.

        Raises InputError where the sites are not the recorder's, where shapes do not fit, or where ids are no integers.
        An id that is none, and signs beyond the room, are only seen by `end_epoch`.
        """
        design = self.design
        if gradients.keys() != self.waiting.keys():
            raise InputError(f"gradients are of {sorted(gradients)}, the recorder's sites {sorted(self.waiting)}")
        for site, gradient in gradients.items():
            if gradient.shape != (len(ids), *design.sites[site].shape):
                raise InputError(
                    f"gradients at {site!r} have shape {list(gradient.shape)}, but {len(ids)} ids came with them: give "
                    "the ids of the batch that was trained on"
                )
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise InputError(f"ids are {ids.dtype}: give the samples' row numbers in the training set, integers")
        ids = jnp.asarray(ids, jnp.int32)
        wrong = (ids < 0) | (ids >= len(self.row_of))
        invalid = ids[jnp.argmax(wrong)]
        stray = jnp.where(wrong.any(), jnp.where(invalid < 0, invalid - 1, invalid), self.stray)
        row = jnp.where(wrong, NOWHERE, self.row_of[jnp.clip(ids, 0, len(self.row_of) - 1)])
        signs = {site: counting.signs(design.chosen(site, gradient)) for site, gradient in gradients.items()}
        if any(rows < len(self.row_of) for rows in design.rows.values()):
            # Sorted by row, each site's own samples come first, and the next batch overwrites the others.
            order = jnp.argsort(row, stable=True)
            ids, row, signs = jax.tree.map(lambda leaf: leaf[order], (ids, row, signs))
        put = partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
        counted = {site: (row < rows).sum(dtype=jnp.int32) for site, rows in design.rows.items()}
        return self.replace(
            waiting={site: put(before, signs[site], self.filled[site]) for site, before in self.waiting.items()},
            ids={site: put(before, ids, self.filled[site]) for site, before in self.ids.items()},
            filled={site: before + counted[site] for site, before in self.filled.items()},
            needed={site: jnp.maximum(self.needed[site], before + len(ids)) for site, before in self.filled.items()},
            stray=stray,
        )

    def end_epoch(self) -> Online:
        """The recorder with all waiting signs counted; what it was made from is used up. Not for `jit`.

        A sample that came more than once is counted each time, in order; where none came, nothing changes. Raises
        InputError where more came than there is room for, where an id is none, or where the counts would overflow.
        """
        design = self.design
        for site, signs in self.waiting.items():
            if (needed := int(self.needed[site])) > len(signs):
                raise InputError(
                    f"{needed} samples came since the last end_epoch, and there is room for {len(signs)}: call it more "
                    "often, or make the recorder with more room="
                )
        if (stray := int(self.stray)) != -1:
            raise InputError(
                f"sample {stray + (stray < 0)} came, but the recorder was made for samples={len(self.row_of)}, counted "
                "from 0: leave out what fills up a batch, or give it the id of a sample and no weight in the loss"
            )
        row_of, most = np.asarray(self.row_of), int(self.most)
        tallies, loss = dict(self.tallies[design.main]), design.main
        for site, rows in design.rows.items():
            came = row_of[np.asarray(self.ids[site])[: int(self.filled[site])]]
            passes = _times(came)
            most = max(most, int(self.most) + int(passes.max(initial=-1)) + 1)
            self.check_room(most)
            for now in range(int(passes.max(initial=-1)) + 1):
                where = np.full(rows, -1, np.int32)
                where[came[passes == now]] = np.flatnonzero(passes == now)
                tallies[site] = _count(tallies[site], self.waiting[site], where)
        return self.replace(
            tallies={loss: tallies},
            filled=jax.tree.map(jnp.zeros_like, self.filled),
            needed=jax.tree.map(jnp.zeros_like, self.needed),
            most=jnp.full_like(self.most, most),
        )

    @property
    def recordings(self) -> int:
        """Recordings of any one sample so far, at most."""
        return int(self.most)

    @property
    def labels(self) -> None:
        """None: they are not known here, so that `classes` needs its argument `labels`."""

    def counts(self, loss: str | None = None) -> dict[str, Tally]:
        """{site: Tally}, integers of shape (samples, positions ..., neurons), rows in the samples' order.

        Raises InputError while signs wait: call `end_epoch` first.
        """
        if waiting := max(int(count) for count in self.filled.values()):
            raise InputError(f"{waiting} samples' signs have not been counted: call end_epoch first")
        return {site: self.tallies[loss or self.design.main][site] for site in self.design.sites}

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint needs, as nested dictionaries of the host's arrays.

        `chosen` is a fingerprint of the counted samples, neurons and positions.
        """
        found = serialization.to_state_dict(self)
        found = {name: jax.tree.map(np.asarray, part) for name, part in found.items() if name != "row_of"}
        return found | {"chosen": self.chosen}

    @property
    def chosen(self) -> UInt8[np.ndarray, " bytes"]:
        """A fingerprint of the counted samples, neurons and positions."""
        return sameness.fingerprint(self.design, np.asarray(self.row_of))

    def restored(self, state: Mapping[str, Any]) -> Online:
        """This recorder, made anew as it was made at first, with the `state` of a checkpoint.

        It may have room for more recordings. Raises InputError where it has room for fewer than there are, for another
        number of waiting signs, or counts other samples, neurons or positions.
        """
        rooms = {site: signs.shape for site, signs in self.waiting.items()}
        if not np.array_equal(state["chosen"], self.chosen) or rooms != {
            site: np.shape(signs) for site, signs in state["waiting"].items()
        }:
            raise InputError(
                "the saved recorder counted other samples, neurons or positions, or had other room: make this one with "
                "the same samples=, counted=, neurons=, positions=, room= and seed="
            )
        self.check_room(int(state["most"]))
        rest = {name: part for name, part in state.items() if name != "chosen"}
        made: Online = serialization.from_state_dict(self, {**serialization.to_state_dict(self), **rest})
        recordings = self.design.recordings
        tallies = {
            loss: {site: sameness.with_room(tally, recordings) for site, tally in of.items()}
            for loss, of in made.tallies.items()
        }
        return made.replace(tallies=tallies)


def _times(rows: Int[np.ndarray, " came"]) -> Int[np.ndarray, " came"]:
    """How often each row has come before."""
    order = np.argsort(rows, kind="stable")
    first = np.searchsorted(rows[order], rows[order])
    found = np.empty(len(rows), int)
    found[order] = np.arange(len(rows)) - first
    return found


@partial(jax.jit, donate_argnums=0)
def _count(tally: Tally, waiting: Array, where: Int[Array | np.ndarray, " rows"]) -> Tally:
    """One more recording of the rows with waiting signs; the others get zeros, which do not count."""
    there = (where >= 0).reshape(-1, *(1,) * (waiting.ndim - 1))
    return counting.update(tally, jnp.where(there, waiting[jnp.maximum(where, 0)], jnp.zeros((), waiting.dtype)))


def begin(design: Design, samples: int, ids: Int[np.ndarray, " recorded"], room: int) -> Online:
    """An online recorder of the training samples `ids`, of `samples` in all, with rows in this order.

    A site has room for as many samples between two calls of `end_epoch` as it counts, and `room` more.
    """
    row_of = np.full(samples, NOWHERE, np.int32)
    row_of[ids] = np.arange(len(ids), dtype=np.int32)
    rooms = {site: rows + room for site, rows in design.rows.items()}
    zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731
    return Online(
        tallies=design.empty(),
        waiting={site: jnp.zeros((rooms[site], *design.value_shape(site)), jnp.int8) for site in design.sites},
        ids={site: jnp.zeros(rooms[site], jnp.int32) for site in design.sites},
        filled={site: zero() for site in design.sites},
        needed={site: zero() for site in design.sites},
        stray=jnp.full((), -1, jnp.int32),
        most=zero(),
        row_of=jnp.asarray(row_of),
        design=design,
    )
