"""What two recorders must have in common before their counts are put together, or one goes on from a saved one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, UInt8

from neuron_mech.errors import InputError
from neuron_mech.recording.counting import Tally, count_type
from neuron_mech.recording.design import Design
from neuron_mech.store import identity


def fingerprint(design: Design, *arrays: PyTree) -> UInt8[np.ndarray, " bytes"]:
    """Digests of `arrays`, which are of the samples, and of what is recorded of them."""
    digests = (identity.digest(leaf) for leaf in _parts(design, arrays))
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8)


def abstract_fingerprint(design: Design, *arrays: PyTree) -> jax.ShapeDtypeStruct:
    """The shape of `fingerprint`, of arrays or of their shapes."""
    return jax.ShapeDtypeStruct((32 * len(_parts(design, arrays)),), jnp.uint8)


def _parts(design: Design, arrays: tuple[PyTree, ...]) -> list[Any]:
    keeps = np.asarray(design.keeps) if design.keeps else None
    return jax.tree.leaves((arrays, dict(design.neurons), dict(design.positions), keeps))


def check_same(one: Design, other: Design, how: str) -> None:
    """Raise InputError, saying that recorders are put together `how`, where they record other things."""
    differ = {
        "sites": set(one.sites) != set(other.sites),
        "losses": set(one.losses) != set(other.losses),
        "derivative": one.derivative != other.derivative,
        "neurons": not equal(dict(one.neurons), dict(other.neurons)),
        "positions": not equal(dict(one.positions), dict(other.positions)),
    }
    if found := [name for name, differs in differ.items() if differs]:
        raise InputError(
            f"recorders are put together {how} where they record the same things, and these have other "
            f"{' and '.join(found)}: make both with the same arguments, seed= among them"
        )


def equal(one: PyTree, other: PyTree) -> bool:
    """Whether two trees hold the same arrays."""
    leaves, others = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(of)}
        for of in (one, other)
    )
    return leaves.keys() == others.keys() and all(np.array_equal(leaves[path], others[path]) for path in leaves)


def with_room(tally: Tally, recordings: int) -> Tally:
    """A tally of host arrays in the integer type that holds counts up to `recordings`; it may be saved in a smaller."""
    kind = count_type(recordings)
    positive, negative, trail = (np.asarray(c).astype(kind) for c in (tally.positive, tally.negative, tally.trail))
    return Tally(positive, negative, trail, tally.not_finite)
