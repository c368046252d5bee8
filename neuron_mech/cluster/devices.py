"""Several devices, of one process or of many: each trains on a share of every batch and records a share of the samples.

Recorded samples are dealt like cards, so that every device has its share of any first so many, and holds the tally of
its own: recording needs no communication. What is saved and what is reported is in the order of a single device.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from neuron_mech.errors import InputError, first_line

T = TypeVar("T")

_AXIS = "samples"

_BLOCK = 2**26
"""Bytes collected at once, which is what collecting takes of a device's memory."""


_DETERMINISTIC = "--xla_gpu_deterministic_ops"


def deterministic() -> None:
    """Have XLA give the same bits at every start, on a GPU too. Call it before JAX is asked for anything.

    By default XLA times several kernels for every operation at each start, and may choose others than before, and some
    add numbers in whatever order they come. On an H200 without these a training step took 1 % and a recording 10 %
    longer. XLA_FLAGS that say otherwise are left as they are.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _DETERMINISTIC not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}=true".strip()


def named() -> str:
    """The devices at hand, such as `1 x NVIDIA H200 (gpu)`.

    Raises InputError where JAX finds none, or no CPU beside one that cannot audit signs in double precision itself.
    """
    try:
        found = jax.devices()
        if found[0].platform not in ("cpu", "gpu"):
            jax.local_devices(backend="cpu")
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise InputError(
            f"JAX finds no device (JAX_PLATFORMS={asked!r}: {first_line(error)}): install jax for it (the extra cuda "
            "or tpu), or set JAX_PLATFORMS to what there is, such as cuda, or tpu,cpu, or cpu"
        ) from None
    return f"{len(found)} x {found[0].device_kind} ({found[0].platform})"


def _sharded(*axes: str) -> NamedSharding:
    """Over all devices of all processes."""
    return NamedSharding(Mesh(np.array(jax.devices()), (_AXIS,)), PartitionSpec(*axes))


def share(count: int, devices: int) -> int:
    """Rows that each device holds of `count`: where they do not divide, some devices hold their last one twice."""
    return -(-count // devices)


def dealt(count: int, devices: int) -> Int[np.ndarray, " rows"]:
    """Row numbers in the order in which the devices hold them, a device's rows side by side: d, d + devices ..."""
    rows = np.arange(devices)[:, None] + devices * np.arange(share(count, devices))
    return np.where(rows < count, rows, np.maximum(rows - devices, 0)).ravel()


def shard_rows(tree: T, count: int, devices: int) -> T:
    """Arrays of `count` rows, each row placed on its device; a process looks at its own devices' rows only."""
    if devices == 1:
        return tree
    order = dealt(count, devices)

    def place(leaf: Any) -> jax.Array:
        rows = np.asarray(leaf)
        shape = (len(order), *rows.shape[1:])
        look = lambda index: rows[order[index[0]]]  # noqa: E731
        return jax.make_array_from_callback(shape, _sharded(_AXIS), look)

    return jax.tree.map(place, tree)


def gather_rows(tree: T, count: int, devices: int) -> T:
    """The inverse of `deal`: arrays on every process's host with their rows in order."""
    if devices == 1:
        return tree

    def rows(leaf: jax.Array) -> np.ndarray:
        found = np.empty((share(count, devices) * devices, *leaf.shape[1:]), leaf.dtype)
        size = max(1, _BLOCK // max(1, found[:devices].nbytes))
        for start in range(0, share(count, devices), size):
            stop = min(start + size, share(count, devices))
            found[start * devices : stop * devices] = _block(leaf, start, stop - start, devices).addressable_data(0)
        return found[:count]

    return jax.tree.map(rows, tree)


@partial(jax.jit, static_argnames=("size", "devices"))
def _block(leaf: Array, start: Int[Array | np.integer, ""] | int, size: int, devices: int) -> Array:
    """Rows `start` to `start + size` of every device. Since they are dealt like cards, these are neighbours."""
    held = leaf.reshape(devices, -1, *leaf.shape[1:])
    block = jnp.swapaxes(jax.lax.dynamic_slice_in_dim(held, start, size, axis=1), 0, 1)
    return jax.lax.with_sharding_constraint(block.reshape(-1, *leaf.shape[1:]), _sharded())


def distinct(tree: T, count: int, devices: int) -> T:
    """Inside a compiled function: what has been dealt, with zeros in the rows that a device holds twice."""
    if devices == 1:
        return tree
    rows = (np.arange(devices)[:, None] + devices * np.arange(share(count, devices))).ravel() < count
    return jax.tree.map(lambda leaf: jnp.where(rows.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0), tree)


def replicate(tree: T, devices: int) -> T:
    """The same arrays on every device. Every process gives its own copy of them."""
    if devices == 1:
        return tree

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, _sharded(), lambda index: whole[index])

    return jax.tree.map(place, tree)


def on_one(tree: T, devices: int) -> T:
    """The inverse of `everywhere`: the arrays on the process's first device alone."""
    return tree if devices == 1 else jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def spread(batch: T, devices: int) -> T:
    """Inside a compiled function: a batch divided among the devices, where its size allows that."""
    size = jax.tree.leaves(batch)[0].shape[0]
    if devices == 1 or size % devices:
        return batch
    return jax.lax.with_sharding_constraint(batch, _sharded(_AXIS))


def each(
    function: Callable[[PyTree, PyTree, PyTree, Array], PyTree], devices: int
) -> Callable[[PyTree, PyTree, PyTree, Array], PyTree]:
    """`function(own, common, own, common)` -> own, called by each device on what it has been dealt, alone."""
    if devices == 1:
        return function
    own, common = PartitionSpec(_AXIS), PartitionSpec()
    mesh = _sharded().mesh
    return jax.shard_map(function, mesh=mesh, in_specs=(own, common, own, common), out_specs=own, check_vma=False)
