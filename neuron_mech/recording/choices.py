"""The choice of samples, neurons and positions to record: a number of them, a share, or given ones."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from neuron_mech.cluster import jax_settings
from neuron_mech.errors import InputError
from neuron_mech.taps import Site

Choice = int | float | Sequence[int] | np.ndarray | None
"""A number, a share (float), or indices or a mask; None for all."""


def chosen(wanted: Choice, what: str, total: int, seed: int) -> np.ndarray | None:
    """Ascending indices of the chosen ones of `total`; None for all. Errors call them `what`.

    A number or a share is drawn with `seed`, whatever JAX's settings in this process.
    """
    if wanted is None:
        return None
    if isinstance(wanted, bool):
        raise InputError(f"{what}={wanted}: give a count, a share between 0.0 and 1.0, or None for all")
    if not isinstance(wanted, (int, float)):
        return _these(np.asarray(wanted), what, total)
    count = round(wanted * total) if isinstance(wanted, float) else wanted
    if count < 1 or (isinstance(wanted, float) and wanted > 1):
        raise InputError(f"{what}={wanted}: give a count of at least 1, a share between 0.0 and 1.0, or None for all")
    if count >= total:
        return None
    with jax_settings.standard():
        return np.sort(np.asarray(jax.random.permutation(jax.random.key(seed), total))[:count])


def _these(which: np.ndarray, what: str, total: int) -> np.ndarray:
    """Given indices, or a mask of length `total`, as ascending indices."""
    if which.dtype == bool and which.shape == (total,):
        which = np.flatnonzero(which)
    if which.ndim != 1 or not len(which) or not np.issubdtype(which.dtype, np.integer):
        raise InputError(
            f"{what} is {which.dtype}{list(which.shape)}: give indices in one row, at least one, or a mask of {total}"
        )
    found, often = np.unique(which, return_counts=True)
    if found[0] < 0 or found[-1] >= total:
        wrong = found[0] if found[0] < 0 else found[-1]
        raise InputError(f"{what} has index {wrong}, but there are {total}, counted from 0")
    if np.max(often) > 1:
        raise InputError(f"{what} has index {found[np.argmax(often)]} {np.max(often)} times: name each once")
    return found


def chosen_neurons(sites: Mapping[str, Site], wanted: Choice, seed: int) -> dict[str, np.ndarray | None]:
    """Indices of the recorded neurons by site; None for all."""
    return {name: chosen(wanted, "neurons", site.shape[-1], seed) for name, site in sites.items()}


def chosen_positions(sites: Mapping[str, Site], wanted: Choice, seed: int) -> dict[str, np.ndarray | None]:
    """Flat indices of the recorded positions by site; None for all."""
    return {name: chosen(wanted, "positions", math.prod(site.shape[:-1]), seed) for name, site in sites.items()}


def chosen_rows(
    wanted: Mapping[str, int], sites: Mapping[str, Site], samples: int, seed: int
) -> tuple[dict[str, int], np.ndarray]:
    """(number of samples by site, order of the samples): a random order where some sites record fewer samples."""
    for name, count in wanted.items():
        if name not in sites:
            raise InputError(f"site_samples has {name!r}, which is not recorded; recorded sites: {', '.join(sites)}")
        if not 1 <= count <= samples:
            raise InputError(f"site_samples has {count} for {name!r}: give a count from 1 to {samples}")
    if not wanted:
        return dict.fromkeys(sites, samples), np.arange(samples)
    with jax_settings.standard():
        order = np.asarray(jax.random.permutation(jax.random.key(seed), samples))
    return {name: wanted.get(name, samples) for name in sites}, order
