"""Several devices of one process: each trains on a share of every batch and records a share of the samples.

Recorded samples are dealt like cards, so that every device has its share of any first so many, and holds the tally of
its own: recording needs no communication. What is saved and what is reported is in the order of a single device.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

T = TypeVar("T")

_AXIS = "samples"


def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (_AXIS,))


def share(count: int, devices: int) -> int:
    """Rows that each device holds of `count`: where they do not divide, some devices hold their last one twice."""
    return -(-count // devices)


def dealt(count: int, devices: int) -> Int[np.ndarray, " rows"]:
    """Row numbers in the order in which the devices hold them, a device's rows side by side: d, d + devices ..."""
    rows = np.arange(devices)[:, None] + devices * np.arange(share(count, devices))
    return np.where(rows < count, rows, np.maximum(rows - devices, 0)).ravel()


def deal(tree: T, count: int, devices: int) -> T:
    """Arrays of `count` rows, each row placed on its device."""
    if devices == 1:
        return tree
    order, sharding = dealt(count, devices), NamedSharding(_mesh(), PartitionSpec(_AXIS))
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[order], sharding), tree)


def collect(tree: T, count: int, devices: int) -> T:
    """The inverse of `deal`: arrays on the host with their rows in order."""
    if devices == 1:
        return tree
    rows = np.arange(count)
    where = rows % devices * share(count, devices) + rows // devices
    return jax.tree.map(lambda leaf: np.asarray(leaf)[where], tree)


def everywhere(tree: T, devices: int) -> T:
    """The same arrays on every device."""
    return tree if devices == 1 else jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec()))


def on_one(tree: T, devices: int) -> T:
    """The inverse of `everywhere`: the arrays on the first device alone."""
    return tree if devices == 1 else jax.device_put(tree, jax.local_devices()[0])


def spread(batch: T, devices: int) -> T:
    """Inside a compiled function: a batch divided among the devices, where its size allows that."""
    size = jax.tree.leaves(batch)[0].shape[0]
    if devices == 1 or size % devices:
        return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(_mesh(), PartitionSpec(_AXIS)))


def each(
    function: Callable[[PyTree, PyTree, PyTree, Array], PyTree], devices: int
) -> Callable[[PyTree, PyTree, PyTree, Array], PyTree]:
    """`function(own, common, own, common)` -> own, called by each device on what it has been dealt, alone."""
    if devices == 1:
        return function
    own, common = PartitionSpec(_AXIS), PartitionSpec()
    return jax.shard_map(function, mesh=_mesh(), in_specs=(own, common, own, common), out_specs=own, check_vma=False)
