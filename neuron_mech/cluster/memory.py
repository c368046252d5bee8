"""Free memory, and sizes in bytes as text."""

import jax
import psutil


def free_memory() -> tuple[int, bool]:
    """(free bytes of the process's first device, whether it shares this memory with the host and other devices)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"], False
    return psutil.virtual_memory().available, True


def size(count: int) -> str:
    """A number of bytes in words: 1.5 GB, 20.0 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
