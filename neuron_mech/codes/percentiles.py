"""Percentiles of each neuron's pre-activations, the scale on which neurons are compared.

Values have shape (values, neurons): the positions of a feature map count as values of the same neuron. Percentiles are
computed on the host: numpy sorts 60,000 values of 512 neurons in 0.3 s, XLA on a CPU in 6 s.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neuron_mech.errors import InputError

LIMIT = 100_000
"""Largest number of values of a neuron that are used, chosen at random."""


def percentiles(
    values: Float[Array | np.ndarray, "values neurons"], ranks: Sequence[float] | np.ndarray
) -> Float[np.ndarray, "ranks neurons"]:
    """The value at each percentile rank of each neuron, interpolated linearly between neighbours, as float32.

    Raises InputError for a rank outside 0-100, and where there is no value or no rank.
    """
    check_ranks(ranks, "ranks")
    if not values.shape[0]:
        raise InputError("percentiles of no values: give at least one sample")
    return np.percentile(np.asarray(values), np.asarray(ranks), axis=0).astype(np.float32)


def rank_of(values: Float[Array, "values neurons"], value: float) -> Float[Array, " neurons"]:
    """The percentile rank, 0 to 100, of `value` among each neuron's: the share below it plus half of the equal ones."""
    below = (values < value).mean(axis=0, dtype=jnp.float32)
    equal = (values == value).mean(axis=0, dtype=jnp.float32)
    return 100 * below + 50 * equal


def check_ranks(ranks: Sequence[float] | np.ndarray, field: str) -> None:
    """Raise InputError, naming `field`, for an empty list of ranks or one outside 0-100."""
    if not len(ranks):
        raise InputError(f"{field} is empty: give at least one percentile rank")
    for rank in ranks:
        if not 0 <= rank <= 100:
            raise InputError(f"{field} has {rank}: percentile ranks run from 0 to 100")
