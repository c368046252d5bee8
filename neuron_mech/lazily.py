"""Libraries that take long to import, imported when they are first used.

A mistyped option, --help and `import neuron_mech` need none of them, and take a third of the time without them. Use
`from neuron_mech.lazily import xarray as xr`, in modules with `from __future__ import annotations`.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grain
    import h5py
    import jinja2
    import xarray
    from orbax import checkpoint
    from scipy import optimize, stats
else:

    class _Later(ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module(self.__name__), name)

    grain, h5py, jinja2, xarray = map(_Later, ("grain", "h5py", "jinja2", "xarray"))
    checkpoint, optimize, stats = map(_Later, ("orbax.checkpoint", "scipy.optimize", "scipy.stats"))

__all__ = ["checkpoint", "grain", "h5py", "jinja2", "optimize", "stats", "xarray"]
