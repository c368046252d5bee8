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
    """Rounding decides too many signs, or derivatives are not finite."""


class Counted(struct.PyTreeNode):
    """The base of recorders: counts that can be read. `loss` names one of several losses; None is the main one."""

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
        """The tallies and their neurons by site, as `summaries` takes them."""
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
        """{site: number of infinite or NaN derivatives, over all samples and recordings}."""
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
        """The average sign, in [-1, 1], of every (sample, position, neuron); NaN where no derivative was nonzero."""
        tally = self._said(self.counts(loss))[site]
        return counting.average_sign(tally.positive, tally.negative)

    def constancy(self, loss: str | None = None) -> dict[str, float]:
        """{site: share of pairs with |average sign| > 0.9}."""
        tallies = self._said(self.counts(loss))
        found = {s: jax.jit(counting.constant_counts)(t.positive, t.negative) for s, t in tallies.items()}
        return {site: counting.constancy(*both) for site, both in found.items()}

    def partition(self, site: str, loss: str | None = None) -> Int[Array, " samples *values"]:
        """The category of every (sample, position, neuron): +1 low, -1 high, 0 none."""
        tally = self.counts(loss)[site]
        return jax.jit(partitions.categories)(tally.positive, tally.negative)

    def signs(self, seed: int = 0, loss: str | None = None) -> xr.Dataset:
        """The dataset of gradient_signs.nc, for figures 1 and 5 (`figures.average_sign_histograms`).

        `seed` chooses the neuron of figure 1.
        """
        rng, recorded = np.random.default_rng(seed), self.recorded(loss)
        shown = {site: int(rng.choice(at.neurons)) for site, at in recorded.items()}
        return summaries.of_signs(recorded, self.recordings, shown)

    def classes(
        self, classes: int, labels: Array | np.ndarray | None = None, seed: int = 0, loss: str | None = None
    ) -> xr.Dataset:
        """The dataset of class_consistency.nc, for figure 8 (`figures.class_consistency`).

        `labels` are class indices of the recorded samples, by default those that the recorder was given; `seed`
        permutes them for the control. Raises InputError where there are no labels, or not one for each sample.
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
