"""What every process of a test run is told: where programs are compiled to, which tests come first, and that those that
run tests check strictly (`strict.py`). The one that only hands tests out imports no more than this.
"""

import os
import tempfile
from importlib.metadata import version

import pytest
from packaging.version import Version

# Their threads wait for one another by spinning: regressions of these tests take twice the time with two. To be set
# before NumPy is imported.
for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

# Compiled fast rather than fast when run: compiling is most of the time. No number that a test asks for depends on it.
# XLA's older way to write code for a CPU takes half of the time of the one that replaced it; JAX 0.11 has it no more.
older = " --xla_cpu_use_fusion_emitters=false" if Version(version("jax")) < Version("0.11") else ""
os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level=0{older}")
COMPILED = "JAX_COMPILATION_CACHE_DIR"
if COMPILED not in os.environ:
    # What is compiled in one test is there for the next, for the other worker, and for the processes that tests start:
    # this process is the first, and takes it away at its end. To be set before JAX is imported. Everything is kept, the
    # smallest program too: one array operation takes 19 ms to compile and 4 ms to read, and there are thousands.
    compiled = tempfile.TemporaryDirectory(prefix="neuron_mech-compiled-")
    os.environ[COMPILED] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="SIGKILLs in the kill-and-resume test")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes long for what it is; leave such files out with -m 'not long'")
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # the order is this file's
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        config.pluginmanager.import_plugin("strict")


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
