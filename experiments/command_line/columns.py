"""A table for a terminal."""

from collections.abc import Sequence


def aligned(*rows: Sequence[str]) -> str:
    """Rows of cells as lines: the first column to the left, the others to the right, each as wide as its widest."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in rows
    )
