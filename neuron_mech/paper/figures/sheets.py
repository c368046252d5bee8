"""Many small images as one picture, side by side, row by row, in which the explorer and readers look up samples."""

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt
from PIL import Image

from neuron_mech.cluster import processes
from neuron_mech.store import write_result

COLUMNS = 50
"""Images side by side."""


def contact_sheet(
    images: UInt[np.ndarray, "images height width channels"], largest: int
) -> UInt[np.ndarray, "rows columns channels"]:
    """The images in their order, COLUMNS in a row, as bytes; `largest` is the value of white.

    A fourth channel, which is transparency, is left out. Places without an image are black.
    """
    count, height, width, channels = images.shape
    rows = -(-count // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, height, width, min(channels, 3)), np.uint8)
    tiles[:count] = (images[..., :3].astype(np.uint32) * 255 + largest // 2) // largest
    grid = tiles.reshape(rows, COLUMNS, height, width, -1).swapaxes(1, 2)
    return grid.reshape(rows * height, COLUMNS * width, -1)


def write_sheet(
    directory: Path, name: str, images: UInt[np.ndarray, "images height width channels"], largest: int
) -> None:
    """Write `figures/NAME.png` in a run's directory: the images in their order, COLUMNS in a row."""
    if processes.first():
        sheet = contact_sheet(images, largest)
        picture = Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet)
        write_result(directory / "figures" / f"{name}.png", partial(picture.save, format="PNG", optimize=True))
