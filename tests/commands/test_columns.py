"""Tables for a terminal."""

import pytest

from experiments.command_line.columns import aligned


def test_columns_are_as_wide_as_their_widest_cell():
    assert aligned(["", "a", "accuracy"], ["relu", "0.25", "97.1%"]) == (
        "         a  accuracy\n"  # left, and right
        "relu  0.25     97.1%"
    )
    with pytest.raises(ValueError, match="zip"):
        aligned(["a", "b"], ["c"])
