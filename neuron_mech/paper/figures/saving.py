"""Figures as files, and many small images as one picture, in which the explorer and readers look up samples."""

from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt
from matplotlib.figure import Figure
from PIL import Image

from neuron_mech.cluster import processes
from neuron_mech.paper.figures.styles import style
from neuron_mech.store import write_result

METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
"""Metadata that are left out of the files, so that the same figure gives the same bytes."""


def write_figure(directory: Path, name: str, figure: Figure) -> list[Path]:
    """Write a figure as `figures/NAME.png`, `.svg` and `.pdf` in a run's directory. The same figure, the same bytes.

    The figure is laid out in here, and its layout engine taken away. Only process 0 writes; every process is told the
    paths. Raises RunError where a file cannot be written.

    >>> import pathlib, tempfile
    >>> from matplotlib.figure import Figure
    >>> from neuron_mech.paper import figures
    >>> with tempfile.TemporaryDirectory() as name:
    ...     paths = figures.write_figure(pathlib.Path(name), "mine", Figure(figsize=(1, 1)))
    ...     [path.relative_to(name).as_posix() for path in paths if path.exists()]
    ['figures/mine.png', 'figures/mine.svg', 'figures/mine.pdf']
    """
    paths = [directory / "figures" / f"{name}{suffix}" for suffix in METADATA]
    if processes.first():
        with style(), mpl.rc_context({"figure.constrained_layout.use": False}):
            if engine := figure.get_layout_engine():
                for _ in range(2):  # a second layout pass, for tick labels that the first one changed
                    engine.execute(figure)
            # A pass takes as long as drawing, and with an engine, be it "none", each file would begin with one.
            figure.set_layout_engine(None)
            for path in paths:
                write_result(path, partial(figure.savefig, metadata=METADATA[path.suffix]))
    return paths


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
    """Write `figures/NAME.png` in a run's directory: the images in their order, COLUMNS in a row.

    `images` are unsigned integers of 1, 3 or 4 channels, of which a fourth, transparency, is left out; `largest` is the
    value of white. Places behind the last image are black. Raises RunError where the file cannot be written.

    >>> import numpy as np, pathlib, tempfile
    >>> from PIL import Image
    >>> from neuron_mech.paper import figures
    >>> with tempfile.TemporaryDirectory() as name:
    ...     figures.write_sheet(pathlib.Path(name), "digits", np.zeros((60, 8, 8, 1), np.uint8), largest=16)
    ...     with Image.open(pathlib.Path(name, "figures", "digits.png")) as sheet:
    ...         sheet.size
    (400, 16)
    """
    if processes.first():
        sheet = contact_sheet(images, largest)
        picture = Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet)
        write_result(directory / "figures" / f"{name}.png", partial(picture.save, format="PNG", optimize=True))
