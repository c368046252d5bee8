"""What tests of files begin with: a run directory, and a file that is none of its own."""

from pathlib import Path

import pytest

from run_directories import begun


@pytest.fixture
def run(tmp_path) -> Path:
    """A run directory, as it is before anything is saved."""
    return begun(tmp_path / "digits")


@pytest.fixture
def mine(tmp_path) -> Path:
    """A file of the user's, outside."""
    path = tmp_path / "mine.txt"
    path.write_text("mine")
    return path
