"""Randomness by purpose: one stream of keys for shuffling, one for dropout, and so on, all from one seed."""

import zlib

import jax


def random_stream(seed: int, purpose: str) -> jax.Array:
    """A typed key for one purpose ("shuffling", "dropout" ...), independent of every other purpose's.

    Folding in a step or an epoch number gives that step's randomness: a resumed run repeats it exactly. So a purpose
    that is new, or used less, changes no other's numbers.

    Arguments:
        seed: an integer; a config's `train.seed` is from 0 to 2^32 - 1.
        purpose: any text, hashed to 32 bits (CRC-32) and folded into the seed's key.

    >>> import jax
    >>> from neuron_mech.config import random_stream
    >>> shuffling = jax.random.fold_in(random_stream(0, "shuffling"), 7)  # that of epoch 7
    >>> bool(jax.random.uniform(shuffling) == jax.random.uniform(random_stream(0, "dropout")))
    False
    """
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
