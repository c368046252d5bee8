"""Reading a recorder's counts: average signs, categories, and the datasets for figures."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from neuron_mech.cluster import jax_settings
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import counting, partitions, summaries
from neuron_mech.recording.counting import Tally
from neuron_mech.recording.design import Design
from neuron_mech.recording.summaries import Recorded
from neuron_mech.taps.objectives import check_labels


class SignHealthWarning(UserWarning):
    """Rounding decides too many signs, or derivatives are not finite: a recording is not to be relied on as it is.

    A recorder's `plan` warns where double precision contradicts more than 0.1 % of a few samples' signs; what reads
    counts warns where NaN or infinite derivatives came, which count as no sign. Each message says how many, and what
    to do. As an error it ends the program instead:

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> recorder = neuron_mech.recorder(model, variables, x * jnp.nan, labels, "layers_2", recordings=9)
    >>> import warnings
    >>> with warnings.catch_warnings():  # doctest: +ELLIPSIS
    ...     warnings.simplefilter("error", neuron_mech.SignHealthWarning)
    ...     recorder.update(variables).constancy()
    Traceback (most recent call last):
    neuron_mech.recording.reading.SignHealthWarning: at 'layers_2' 10 derivatives of 5 samples were infinite or no ...
    """


class Counted(struct.PyTreeNode):
    """The base of recorders: counts that can be read. `loss` names one of several losses; None is the main one.

    Where derivatives were NaN or infinite, what reads counts warns with a SignHealthWarning, but for `counts`,
    `not_finite` and `partition`. A site that is not recorded, or a loss that is not, is a KeyError.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> recorder = neuron_mech.recorder(model, variables, x, labels, "layers_2", recordings=9).update(variables)
    >>> recorder.partition("layers_2")[0].tolist()  # of class 0: the logits of classes 1 and 2 are pushed down
    [-1, 1, 1]
    >>> recorder.not_finite()
    {'layers_2': 0}
    """

    design: Design = struct.field(pytree_node=False)

    def counts(self, loss: str | None = None) -> dict[str, Tally]:
        """{site: Tally}, each of shape (samples, positions ..., neurons), its rows in the samples' order."""
        raise NotImplementedError

    @property
    def recordings(self) -> int:
        """Largest number of recordings of a sample so far."""
        raise NotImplementedError

    @property
    def labels(self) -> Array | np.ndarray | None:
        """The recorded samples' labels; None where they are not known."""
        raise NotImplementedError

    def recorded(self, loss: str | None = None) -> dict[str, Recorded]:
        """{site: its Tally, its neurons' indices and its name}, as the functions of `summaries` take them."""
        counts = self._said(self.counts(loss))
        return {site: Recorded(tally, self.design.indices(site), site) for site, tally in counts.items()}

    def check_room(self, count: int) -> None:
        """Raise InputError where `count` recordings would overflow the counts."""
        if count > self.design.recordings:
            raise InputError(
                f"{count} recordings, but the recorder was made for recordings={self.design.recordings}: its counts "
                "would overflow; make it with as many as you will record"
            )

    def not_finite(self, loss: str | None = None) -> dict[str, int]:
        """{site: number of infinite or NaN derivatives, over all samples and recordings}; 0 is as it should be."""
        return {site: int(np.asarray(tally.not_finite).sum()) for site, tally in self.counts(loss).items()}

    def _said(self, tallies: dict[str, Tally]) -> dict[str, Tally]:
        """The tallies, after a warning where derivatives were not finite."""
        for site, tally in tallies.items():
            if lost := int(np.asarray(tally.not_finite).sum()):
                samples = int((np.asarray(tally.not_finite) > 0).sum())
                warnings.warn(
                    f"at {site!r} {lost:,} derivatives of {samples:,} samples were infinite or no numbers: they count "
                    "as no sign, and averages are of the others only",
                    SignHealthWarning,
                    stacklevel=4,
                )
        return tallies

    def average_sign(self, site: str, loss: str | None = None) -> Float[Array, " samples *values"]:
        """The average sign of every pair of a sample and a neuron: (positive - negative) / (positive + negative).

        Of the recordings with a nonzero derivative: 1 where all were positive, so that the loss falls when the neuron's
        value does, -1 where all were negative; NaN where there were none. Float32 of shape (samples, positions ...,
        neurons), in the order of the recorded samples and neurons.
        """
        tally = self._said(self.counts(loss))[site]
        return counting.average_sign(tally.positive, tally.negative)

    def constancy(self, loss: str | None = None) -> dict[str, float]:
        """{site: share of (sample, position, neuron) with |average sign| > 0.9, of those with any nonzero derivative}.

        From 0 to 1, and exact: an average of 0.9 is not above it. NaN where no derivative was nonzero. With few
        recordings it is large by chance; `signs` has the constancy of independent signs beside it.
        """
        tallies = self._said(self.counts(loss))
        found = {s: jax.jit(counting.constant_counts)(t.positive, t.negative) for s, t in tallies.items()}
        return {site: counting.constancy(*both) for site, both in found.items()}

    def partition(self, site: str, loss: str | None = None) -> Int[Array, " samples *values"]:
        """The category of every (sample, position, neuron): the sign of its average sign, as int8.

        +1 is low: the loss falls when the neuron's value does. -1 is high. 0 is none: no nonzero derivative, or as
        many of either sign.
        """
        tally = self.counts(loss)[site]
        return jax.jit(partitions.categories)(tally.positive, tally.negative)

    def signs(self, seed: int = 0, loss: str | None = None) -> xr.Dataset:
        """The dataset of gradient_signs.nc, for figures 1 and 5 (`figures.average_sign_histograms`).

        By site and by neuron it has `constancy`, that of independent signs, histograms of average signs, and flips;
        each variable has its description and unit. `seed` chooses the neuron of figure 1. Without a nonzero derivative
        constancy is NaN.
        """
        rng, recorded = np.random.default_rng(seed), self.recorded(loss)
        shown = {site: int(rng.choice(at.neurons)) for site, at in recorded.items()}
        return summaries.of_signs(recorded, self.recordings, shown)

    def classes(
        self, classes: int, labels: Array | np.ndarray | None = None, seed: int = 0, loss: str | None = None
    ) -> xr.Dataset:
        """The dataset of class_consistency.nc, for figure 8 (`figures.class_consistency`).

        Arguments:
            classes: number of classes.
            labels: class indices of the recorded samples, from 0 to `classes` - 1; by default those that the recorder
                was given.
            seed: it permutes the labels for the control.
            loss: the name of one of several losses.

        Raises InputError where there are no labels, not one for each sample, or one that is no class.
        """
        given = self.labels if labels is None else labels
        if given is None:
            raise InputError("labels are not known to this recorder: give labels=, one class index for each sample")
        of, recorded = jnp.asarray(given), self.recorded(loss)
        most = max(len(at.tally.positive) for at in recorded.values())
        if of.shape != (most,) or not jnp.issubdtype(of.dtype, jnp.integer):
            raise InputError(
                f"labels are {of.dtype}{list(of.shape)}: figure 8 needs one class index for each of {most} samples"
            )
        check_labels(of, classes, "labels")
        with jax_settings.standard():
            order = np.asarray(jax.random.permutation(jax.random.key(seed), len(of)))
        dealt = of[order]
        found = [
            summaries.of_classes(site, at, of[: len(at.tally.positive)], dealt[: len(at.tally.positive)], classes)
            for site, at in recorded.items()
        ]
        return summaries.with_sites(found, recorded)
