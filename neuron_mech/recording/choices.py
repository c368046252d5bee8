"""Which of the samples, neurons and positions are recorded: so many, a share, or these."""

from collections.abc import Sequence

import jax
import numpy as np

from neuron_mech.cluster import jax_settings
from neuron_mech.errors import InputError

Choice = int | float | Sequence[int] | np.ndarray | None
"""How many, what share, or which ones (indices or a mask); None for all."""


def chosen(wanted: Choice, what: str, total: int, seed: int) -> np.ndarray | None:
    """Indices of so many, of such a share, or of these of `total`, ascending; None for all.

    What is drawn with `seed` does not depend on the settings of the process.
    """
    if wanted is None:
        return None
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
    """Indices, or a mask of so many, as ascending indices."""
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
