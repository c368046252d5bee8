"""One GPU for two processes: NVIDIA's Multi-Process Service, where it can be started.

Without it the two take turns on the GPU, and neither is faster than one after the other.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONTROL = "nvidia-cuda-mps-control"
PRODUCT = (
    "import jax; x = jax.numpy.ones((8, 8)); assert jax.default_backend() == 'gpu' and float((x @ x).sum()) == 512"
)
"""A product on the GPU, to see whether the service works here."""


@contextlib.contextmanager
def shared() -> Iterator[Mapping[str, str]]:
    """Environment of each of two processes at once on one GPU; {} where they would not be faster so."""
    control = shutil.which(CONTROL, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/bin")))
    if control is None:
        yield {}
        return
    with tempfile.TemporaryDirectory() as place:
        names = {"CUDA_MPS_PIPE_DIRECTORY": f"{place}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{place}/log"}
        for directory in names.values():
            Path(directory).mkdir()
        environment = {**os.environ, **names}

        def done(*command: str, seconds: float, said: str | None = None) -> bool:
            # What the daemon inherits it keeps open, so nothing is captured.
            quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            try:
                subprocess.run(command, input=said, text=True, env=environment, timeout=seconds, check=True, **quiet)
            except (OSError, subprocess.SubprocessError):
                return False
            return True

        works = done(control, "-d", seconds=30) and done(sys.executable, "-c", PRODUCT, seconds=120)
        try:
            # Each has room for its own, and neither takes it from the other.
            yield {**names, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"} if works else {}
        finally:
            done(control, said="quit\n", seconds=30)
