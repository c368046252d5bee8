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
    """The value at each percentile rank of each neuron, interpolated linearly between neighbours.

    Rank r is at place r / 100 x (n - 1) of a neuron's n sorted values, counted from 0: rank 0 is the smallest, 50 the
    median, 100 the largest. By ranks, neurons whose values differ in scale are asked the same question.

    Arguments:
        values: of shape (values, neurons); the positions of a feature map are values of the same neuron
            (`sources.chosen_values` gives them so). One value is every percentile of its neuron; a neuron with a NaN
            among its values has NaN at every rank.
        ranks: percentile ranks from 0 to 100, in any order.

    Returns:
        An array of the host's, float32 of shape (ranks, neurons), in the values' unit.

    Raises InputError for a rank outside 0-100 (NaN too), and where there is no value or no rank.

    >>> import numpy as np
    >>> from neuron_mech.codes.percentiles import percentiles
    >>> percentiles(np.array([[0.0, 5.0], [4.0, 5.0], [1.0, 5.0]]), [0, 50, 75]).tolist()
    [[0.0, 5.0], [1.0, 5.0], [2.5, 5.0]]
    """
    check_ranks(ranks, "ranks")
    if not values.shape[0]:
        raise InputError("percentiles of no values: give at least one sample")
    return np.percentile(np.asarray(values), np.asarray(ranks), axis=0).astype(np.float32)


def rank_of(values: Float[Array, "values neurons"], value: float) -> Float[Array, " neurons"]:
    """The percentile rank of `value` among each neuron's values: 100 x (the share below it + half of the equal ones).

    The rank of 0 is where a ReLU cuts a neuron's range (table 1 of the paper).

    Arguments:
        values: of shape (values, neurons). NaN is neither below nor equal; of no values the rank is NaN.
        value: the number whose rank is asked for.

    Returns:
        float32 of shape (neurons,): 0 where all values are larger, 100 where all are smaller, 50 where all are equal.

    >>> import jax.numpy as jnp
    >>> from neuron_mech.codes.percentiles import rank_of
    >>> rank_of(jnp.array([[-2.0, 1.0], [0.0, 2.0], [3.0, 3.0], [4.0, 4.0]]), 0.0).tolist()
    [37.5, 0.0]
    """
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
