"""The devices of a mesh, one or many, of one process or of several: each records a share of the samples.

One device takes the same path. Recorded samples are dealt like cards: sample k goes to device k modulo their number, so
that any first n samples are spread evenly. Each device holds the tally of its own samples, and recording needs no
communication. Training batches are divided among the devices. What is saved and reported is in the original order.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from neuron_mech.errors import InputError, first_line

T = TypeVar("T")

_BLOCK = 2**26
"""Bytes gathered from other processes at a time, which bounds the device memory that gathering takes."""

_DETERMINISTIC = "--xla_gpu_deterministic_ops"


def deterministic() -> None:
    """Make XLA give the same bits at every start, on a GPU too.

    By default XLA times several kernels for every operation at each start, may choose others than before, and uses some
    that add numbers in varying order. On an H200 a training step took 1 % longer with this flag, a recording 10 %.

    It adds `--xla_gpu_deterministic_ops=true` to the environment's XLA_FLAGS, of this process and those that it starts.
    XLA reads them once: call it before JAX first computes anything or lists its devices; later it does nothing, and
    says nothing. XLA_FLAGS that set the flag already, to true or to false, are left alone.

    >>> import os
    >>> from unittest import mock
    >>> from neuron_mech.cluster import devices
    >>> with mock.patch.dict(os.environ, XLA_FLAGS=""):  # so that this example leaves no trace
    ...     devices.deterministic()
    ...     print(os.environ["XLA_FLAGS"])
    --xla_gpu_deterministic_ops=true
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _DETERMINISTIC not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}=true".strip()


def named() -> str:
    """The devices that JAX finds, in words, such as `1 x NVIDIA H200 (gpu)`.

    Raises InputError where there is none, and where a TPU has no CPU beside it, on which signs are audited in float64.
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


def mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of one axis over `devices`: by default all, of all processes."""
    return Mesh(np.array(jax.devices() if devices is None else devices), ("samples",))


def alone() -> Mesh:
    """The process's first device by itself."""
    return mesh(jax.local_devices()[:1])


def mesh_of(tree: PyTree) -> Mesh:
    """The largest mesh that an array of `tree` is on; one device for host arrays."""
    arrays = (leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
    # Inside a function that is being traced an array has no device yet.
    found = [leaf.sharding for leaf in arrays if not isinstance(leaf, jax.core.Tracer)]
    meshes = [at.mesh for at in found if isinstance(at, NamedSharding) and isinstance(at.mesh, Mesh)]
    if meshes:
        return max(meshes, key=lambda one: one.size)
    several: list[Any] = max((list(at.device_set) for at in found), key=len, default=[])
    return mesh(sorted(several, key=lambda device: device.id)) if several else alone()


def rows_of(mesh: Mesh) -> NamedSharding:
    """Rows divided among all devices of the mesh; of one device, as a compiled program returns them: whole."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names)) if mesh.size > 1 else whole_on(mesh)


def whole_on(mesh: Mesh) -> NamedSharding:
    """The whole array on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def share(count: int, devices: int) -> int:
    """Number of rows that each device holds of `count`: ceil(count / devices).

    Where `count` is not divisible, some devices hold their last row twice.
    """
    return -(-count // devices)


def dealt(count: int, devices: int) -> Int[np.ndarray, " rows"]:
    """Row numbers in the order in which the devices hold them, a device's rows side by side: d, d + devices ..."""
    rows = np.arange(devices)[:, None] + devices * np.arange(share(count, devices))
    return np.where(rows < count, rows, np.maximum(rows - devices, 0)).ravel()


def _places(count: int, devices: int) -> Int[np.ndarray, " count"]:
    """Index of each row in the order of `dealt`."""
    rows = np.arange(count)
    return rows % devices * share(count, devices) + rows // devices


def shard_rows(tree: T, count: int, mesh: Mesh) -> T:
    """Arrays of `count` rows with each row on its device; a process reads only the rows of its own devices."""
    order = dealt(count, mesh.size)

    def place(leaf: Any) -> jax.Array:
        rows = np.asarray(leaf)
        shape = (len(order), *rows.shape[1:])
        look = lambda index: rows[order[index[0]]]  # noqa: E731
        return jax.make_array_from_callback(shape, rows_of(mesh), look)

    return jax.tree.map(place, tree)


def gather_rows(tree: T, count: int) -> T:
    """The inverse of `shard_rows`: host arrays in every process, with the rows in their original order."""

    def rows(leaf: jax.Array) -> np.ndarray:
        several = len(leaf.sharding.device_set)
        if several == 1:
            return np.asarray(leaf)
        if leaf.is_fully_addressable:
            return np.asarray(leaf)[_places(count, several)]
        found = np.empty((share(count, several) * several, *leaf.shape[1:]), leaf.dtype)
        size = max(1, _BLOCK // max(1, found[:several].nbytes))
        assert isinstance(leaf.sharding, NamedSharding)
        where = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        for start in range(0, share(count, several), size):
            stop = min(start + size, share(count, several))
            block = _block(leaf, start, stop - start, where)
            found[start * several : stop * several] = block.addressable_data(0)
        return found[:count]

    return jax.tree.map(rows, tree)


@partial(jax.jit, static_argnames=("size", "where"))
def _block(leaf: Array, start: Int[Array | np.integer, ""] | int, size: int, where: NamedSharding) -> Array:
    """Rows `start` to `start + size` of every device, which are neighbours in the original order."""
    held = leaf.reshape(where.mesh.size, -1, *leaf.shape[1:])
    block = jnp.swapaxes(jax.lax.dynamic_slice_in_dim(held, start, size, axis=1), 0, 1)
    return jax.lax.with_sharding_constraint(block.reshape(-1, *leaf.shape[1:]), where)


def distinct(tree: T, count: int, mesh: Mesh) -> T:
    """Sharded rows with zeros in those that a device holds twice. For use inside a compiled function."""
    rows = (np.arange(mesh.size)[:, None] + mesh.size * np.arange(share(count, mesh.size))).ravel() < count
    if rows.all():
        return tree
    return jax.tree.map(lambda leaf: jnp.where(rows.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0), tree)


def replicate(tree: T, mesh: Mesh) -> T:
    """The arrays copied to every device of the mesh. Every process passes its own copy of them."""

    def place(leaf: Any) -> jax.Array:
        if mesh.is_multi_process:
            if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(place(jax.random.key_data(leaf)))
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, whole_on(mesh), lambda index: whole[index])
        return jax.device_put(leaf, whole_on(mesh))

    return jax.tree.map(place, tree)


def on_one(tree: T) -> T:
    """The inverse of `replicate`: the arrays on the process's first device only."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def spread(batch: T, mesh: Mesh) -> T:
    """A batch divided among the devices, where its size is divisible. For use inside a compiled function."""
    size = jax.tree.leaves(batch)[0].shape[0]
    return batch if size % mesh.size else jax.lax.with_sharding_constraint(batch, rows_of(mesh))


def each(function: Callable[..., PyTree], mesh: Mesh) -> Callable[..., PyTree]:
    """`function(own, common)` -> own, called on each device with its own rows and with what all devices have."""
    if mesh.size == 1:
        return function  # without shard_map, which could not be nested inside one of the caller's own
    own, common = PartitionSpec(mesh.axis_names), PartitionSpec()
    return jax.shard_map(function, mesh=mesh, in_specs=(own, common), out_specs=own, check_vma=False)
