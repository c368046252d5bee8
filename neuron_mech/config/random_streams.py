"""Randomness by purpose: one stream of keys for shuffling, one for dropout, and so on, all from one seed."""

import zlib

import jax


def random_stream(seed: int, purpose: str) -> jax.Array:
    """A typed key for one purpose ("shuffling", "dropout" ...), independent of every other purpose's.

    Folding in a step or an epoch number gives that step's randomness: a resumed run repeats it exactly.
    """
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
