"""Strict on purpose: shapes and types are checked at every call, silent promotion of ranks and dtypes is an error,
and so is every warning.
"""

import os

# Their threads wait for one another by spinning: regressions of these tests take twice the time with two. To be set
# before NumPy is imported.
for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import typechecking  # noqa: E402

typechecking.install()

import gc  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402

# Compiled fast rather than fast when run: compiling is most of the time. No number that a test asks for depends on it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
COMPILED = "JAX_COMPILATION_CACHE_DIR"
if COMPILED not in os.environ:
    # What is compiled in one test is there for the next, for the other worker, and for the processes that tests start:
    # this process is the first, and takes it away at its end. To be set before JAX is imported. Everything is kept, the
    # smallest program too: one array operation takes 19 ms to compile and 4 ms to read, and there are thousands.
    compiled = tempfile.TemporaryDirectory(prefix="neuron_mech-compiled-")
    os.environ[COMPILED] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="SIGKILLs in the kill-and-resume test")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes long for what it is; leave such files out with -m 'not long'")
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # the order is this file's


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With two processes (`-n 2 --dist loadgroup`), a file to each at a time: the long ones first.

    One of them makes the reproduced run, which others wait for; it begins, beside files that do without.
    """
    needs = {item.path for item in items if "reproduced" in getattr(item, "fixturenames", ())}
    long = {item.path for item in items if item.get_closest_marker("long")}
    first = next((item.path for item in items if item.path in needs & long), None)
    items.sort(key=lambda item: (item.path != first, item.path not in long, item.path in needs))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.path.name))


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
