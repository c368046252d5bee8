"""The settings of JAX that decide numbers: what they are in every run, and where that is seen to.

Each can be changed by the environment (`JAX_ENABLE_X64=1`) or by the program around, and nothing fails: other samples
are drawn, or other bits come out. The commands of `experiments` set them; a run stores them and is refused under others
(`identity`); what `own` draws, it draws under them, and leaves them to its caller as they were.
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
"""What compilers read for themselves, and nobody can set later."""

_ELSEWHERE = ("--xla_force_host_platform_device_count", "--xla_dump")
"""Flags among them that decide no number: a run is the same on any number of devices (see `devices`)."""


def here() -> dict[str, Any]:
    """The settings as they are in this process, and the compilers' flags in its environment."""
    flags = {name: sorted(os.environ.get(name, "").split()) for name in ENVIRONMENT}
    idle = _ELSEWHERE if jax.default_backend() == "gpu" else (*_ELSEWHERE, "--xla_gpu")
    deciding = {name: " ".join(flag for flag in of if not flag.startswith(idle)) for name, of in flags.items()}
    return {name: getattr(jax.config, name) for name in STANDARD} | deciding


def pin() -> None:
    """Set them for the whole process, whatever the environment says: for programs, which own theirs."""
    for name, value in STANDARD.items():
        jax.config.update(name, value)


@contextmanager
def standard() -> Iterator[None]:
    """Set them for what is drawn inside, in this thread alone but for the offset of seeds."""
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
