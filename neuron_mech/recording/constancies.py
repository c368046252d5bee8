"""Constancy beside that of `counting`: by chance, at one number of recordings, and at other levels."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neuron_mech.lazily import stats
from neuron_mech.recording.counting import CONSTANT, Pairs, Tally, by_neuron


def independent_constancy(tally: Tally) -> Float[np.ndarray, " neurons"]:
    """The constancy that each neuron would have if its recordings were independent: a control.

    If each recording is positive with the neuron's own share p of positive ones, a pair of n nonzero recordings is
    constant with probability P(|2K - n| > 0.9 n), K ~ Binomial(n, p). That is averaged over the neuron's pairs, so a
    neuron with few recordings, or with nearly one sign only, is constant by chance too.

    Arguments:
        tally: the counts of one site, of shape (samples, positions ..., neurons).

    Returns float64 of shape (neurons,); NaN for a neuron without a nonzero recording. On the host: the time is one
    evaluation of the distribution for each neuron and each n that there is.

    >>> import numpy as np
    >>> from neuron_mech.recording import constancies, counting
    >>> up, down = np.array([[2], [0]]), np.array([[0], [2]])  # one sample always positive, one always negative
    >>> constancies.independent_constancy(counting.Tally(up, down, np.sign(up - down))).round(6).tolist()
    [0.5]
    """
    positive, negative = (np.asarray(part).reshape(-1, part.shape[-1]) for part in (tally.positive, tally.negative))
    recorded = positive + negative
    neurons = recorded.shape[1]
    with np.errstate(invalid="ignore"):
        share = positive.sum(0, dtype=np.int64) / recorded.sum(0, dtype=np.int64)
    expected, pairs = np.zeros(neurons), np.zeros(neurons)
    # How many pairs of each neuron have n nonzero recordings: (neurons, n).
    most = int(recorded.max(initial=0))
    often = np.stack([np.bincount(of, minlength=most + 1) for of in recorded.T])
    for n in range(1, most + 1):
        if (many := often[:, n]).any():
            # 2K - n > CONSTANT n and 2K - n < -CONSTANT n, as K > above and K < below, in integers.
            above, below = math.floor((1 + CONSTANT) * n / 2), math.ceil((1 - CONSTANT) * n / 2)
            tails = stats.binom.sf(above, n, share) + stats.binom.cdf(below - 1, n, share)
            expected += np.where(many > 0, many * tails, 0.0)
            pairs += many
    with np.errstate(invalid="ignore"):
        return expected / pairs


DEPTH = 50
"""Number of nonzero recordings at which `rarefied_constancy` compares all pairs."""


def rarefied_constancy(tally: Tally) -> Float[np.ndarray, " neurons"]:
    """Expected constancy of each neuron's pairs if DEPTH of the nonzero recordings of each pair are drawn at random.

    |average sign| of few recordings is large by chance, and max pooling leaves some layers fewer nonzero ones than
    others, so layers are compared at one depth (rarefaction, as ecologists compare samples of unequal size). A pair
    with n >= 50 nonzero recordings, k of them positive, counts P(X <= 2 or X >= 48), X ~ Hypergeometric(n, k, 50): with
    at most 2 of 50 signs different from the others, |average sign| is above 0.9. Pairs with fewer recordings are left
    out; NaN for a neuron without other pairs. On the host.
    """
    positive, negative = (np.asarray(part).reshape(-1, part.shape[-1]) for part in (tally.positive, tally.negative))
    recorded = positive + negative
    most = -(-DEPTH // 20) - 1  # the largest d with DEPTH - 2 d > 0.9 DEPTH
    deep = recorded >= DEPTH
    # The rarer sign decides, and most pairs share a few of all (n, k): each is computed once.
    kinds, which = np.unique(
        recorded[deep].astype(np.int64) << 32 | np.minimum(positive, recorded - positive)[deep], return_inverse=True
    )
    n, k = kinds >> 32, kinds & (2**32 - 1)
    chance = stats.hypergeom.cdf(most, n, k, DEPTH) + stats.hypergeom.sf(DEPTH - most - 1, n, k, DEPTH)
    of_pair = np.zeros(recorded.shape)
    of_pair[deep] = chance[which]
    with np.errstate(invalid="ignore"):
        return of_pair.sum(0) / deep.sum(0)


LEVELS = (0.9, 0.99, 1.0)
"""Levels of |average sign| for `constancy_curve`."""


def constancy_curve(positive: Pairs, negative: Pairs) -> Float[np.ndarray, " levels"]:
    """Share of the pairs with any nonzero recording whose |average sign| is at least each of LEVELS, exactly.

    NaN where no pair has one.
    """
    reached, ever = map(np.asarray, _reached(positive, negative))
    return np.array([int(of) / int(ever) if ever else np.nan for of in reached])


@jax.jit
def _reached(
    positive: Int[Array | np.ndarray, "samples *positions neurons"],
    negative: Int[Array | np.ndarray, "samples *positions neurons"],
) -> tuple[Int[Array, " levels"], Int[Array, ""]]:
    """(pairs whose |average sign| is at least each of LEVELS, pairs with any nonzero recording)."""
    lead, recorded = by_neuron(positive, negative)
    ever = recorded > 0
    reached = [((100 * jnp.abs(lead) >= round(100 * level) * recorded) & ever).sum() for level in LEVELS]
    return jnp.stack(reached), ever.sum()
