"""The notebooks run from top to bottom on a digits run, from any directory, and are stored with small outputs."""

import os

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


@pytest.mark.filterwarnings("default")  # Jupyter's own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path, place, monkeypatch):
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(path.parent.parent), os.environ.get("PYTHONPATH", ""))))
    notebook = nbformat.read(path, as_version=4)
    done = client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(place)}}).execute()
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
