"""The notebooks run from top to bottom on a digits run, from any directory, and are stored with small outputs."""

import os
import warnings

import nbformat
import pytest

from places import ROOT

pytestmark = pytest.mark.long

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST, LARGEST_OUTPUT = 150_000, 60_000
"""Bytes of a stored notebook, and of one output in it, at most."""


@pytest.fixture(scope="module")
def place(reproduced):
    """A directory of notebooks beside the runs, as in the project."""
    directory = reproduced.parent.parent / "notebooks" / "deeper"
    directory.mkdir(parents=True)
    return directory


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_can_be_read_on_the_web(path):
    """Every cell was run, in its order; what it showed is small, without errors, and names no machine."""
    assert path.stat().st_size < LARGEST
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output.output_type != "error"
        assert len(str(output)) < LARGEST_OUTPUT
        assert str(ROOT) not in str(output)
        assert "/tmp/" not in str(output)


@pytest.fixture(scope="module")
def kernel(place):
    """One for all notebooks: to begin one each would be half of the time."""
    manager = pytest.importorskip("jupyter_client.manager")
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # Jupyter's own
        started, client = manager.start_new_kernel(cwd=str(place), env=environment)
        yield client
        client.stop_channels()
        started.shutdown_kernel()


@pytest.mark.filterwarnings("default")  # Jupyter's own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path, kernel):
    kernel.execute_interactive("%reset -f", timeout=300)  # no name of another notebook
    said = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            done = kernel.execute_interactive(cell.source, allow_stdin=False, timeout=300, output_hook=said.append)
            assert done["content"]["status"] == "ok", done["content"]
    assert "error" not in {message["msg_type"] for message in said}
    assert any("image/png" in message["content"].get("data", {}) for message in said)
