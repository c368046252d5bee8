"""Strict on purpose, in every process that runs tests: shapes and types are checked at every call, silent promotion of
ranks and dtypes is an error, and so is every warning. And what many tests share, as fixtures.
"""

import gc
import importlib
import os
import shutil
import sys
from collections import Counter

# Imported before the checks are: while these read a module, Python finds no compiled form of what that module imports.
for name in ("flax.linen", "flax.nnx", "h5netcdf", "matplotlib.pyplot", "orbax.checkpoint", "xarray"):
    importlib.import_module(name)

import typechecking  # noqa: E402

typechecking.install()

import filelock  # noqa: E402
import jax  # noqa: E402
import matplotlib as mpl  # noqa: E402
import pytest  # noqa: E402

from at_hand import at_hand  # noqa: E402
from browsers import browser  # noqa: E402, F401  a fixture
from experiments import reproduce  # noqa: E402
from few_frames import FEW_FRAMES  # noqa: E402
from neuron_mech.config import Data  # noqa: E402
from neuron_mech.paper import videos  # noqa: E402
from neuron_mech.training import datasets  # noqa: E402
from small_runs import REPRODUCED  # noqa: E402

# What is imported by now stays, and what is traced is much and mostly no garbage: to look through it again and again is
# a tenth of the time.
gc.freeze()
gc.set_threshold(50_000, 20, 20)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_platforms", "cpu")
mpl.use("Agg")
videos.FRAMES = FEW_FRAMES
compiled: Counter[str] = Counter()
"""How often each of JAX's events has come since programs were last forgotten."""
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.update([event]))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Programs are forgotten at the end of a file, where they are many: kept, they grow to 5 GB in each process."""
    if compiled["/jax/core/compile/backend_compile_duration"] > 1000 and (not nextitem or nextitem.path != item.path):
        jax.clear_caches()
        gc.collect()
        compiled.clear()


def pytest_sessionfinish() -> None:
    """What is left goes with the process: to look through it for garbage six times takes seconds."""
    gc.freeze()


@pytest.fixture
def lenient():
    """As JAX is by default: Keras, Optax and Flax's own layers promote ranks and types in silence."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def digits() -> datasets.Dataset:
    return datasets.load(Data("digits"))


@pytest.fixture(scope="session")
def mnist() -> datasets.Dataset:
    return at_hand(Data("mnist"))


@pytest.fixture(scope="session")
def cifar10() -> datasets.Dataset:
    return at_hand(Data("cifar10"))


@pytest.fixture(scope="session")
def keras():
    """Keras on JAX."""
    os.environ["KERAS_BACKEND"] = "jax"
    return pytest.importorskip("keras", reason="the extra resnet is not installed")


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory):
    """It, reproduced whole: its directory, named runs/digits. One process makes it, and each has a copy."""
    base = tmp_path_factory.getbasetemp()
    place = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with filelock.FileLock(place / "reproduced.lock"):
        if not (place / "reproduced").exists():
            making = tmp_path_factory.mktemp("making")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["reproduce", *REPRODUCED, "--run-dir", str(making / "digits")])
                reproduce.main()
            making.rename(place / "reproduced")
    directory = tmp_path_factory.mktemp("whole") / "runs" / "digits"
    return shutil.copytree(place / "reproduced" / "digits", directory)
