"""The settings of JAX that change results, with the values that every run has.

Each can be changed by the environment (`JAX_ENABLE_X64=1`) or by the calling program without an error: other samples
are drawn, or other bits come out. So the commands of `experiments` set them (`pin`), a run stores them and is refused
under others (`store.identity`), and recorders in a user's own loop draw under them (`standard`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

STANDARD: dict[str, Any] = {
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_enable_x64": False,
    "jax_disable_jit": False,
}
"""JAX's own defaults."""

ENVIRONMENT = ("XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "LIBTPU_INIT_ARGS")
"""Environment variables that the compilers read at their start."""

_ELSEWHERE = ("--xla_force_host_platform_device_count", "--xla_dump")
"""Flags in them that change no result: a run is the same on any number of devices (see `devices`)."""


def here() -> dict[str, Any]:
    """The settings in this process, and the compilers' flags in its environment."""
    flags = {name: sorted(os.environ.get(name, "").split()) for name in ENVIRONMENT}
    idle = _ELSEWHERE if jax.default_backend() == "gpu" else (*_ELSEWHERE, "--xla_gpu")
    deciding = {name: " ".join(flag for flag in of if not flag.startswith(idle)) for name, of in flags.items()}
    return {name: getattr(jax.config, name) for name in STANDARD} | deciding


def pin() -> None:
    """Set the standard settings for the whole process, whatever the environment says. For programs."""
    for name, value in STANDARD.items():
        jax.config.update(name, value)


@contextmanager
def standard() -> Iterator[None]:
    """Use the standard settings inside the block, in this thread only (the offset of seeds: in all threads)."""
    name = "jax_random_seed_offset"
    offset = getattr(jax.config, name)
    jax.config.update(name, STANDARD[name])
    try:
        with (
            jax.default_prng_impl(STANDARD["jax_default_prng_impl"]),
            jax.threefry_partitionable(STANDARD["jax_threefry_partitionable"]),
            jax.enable_x64(STANDARD["jax_enable_x64"]),
        ):
            yield
    finally:
        jax.config.update(name, offset)
