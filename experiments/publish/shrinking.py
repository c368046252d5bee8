"""Files as small as a repository wants them."""

import io
import warnings
from pathlib import Path

from PIL import Image

from neuron_mech.errors import InputError, first_line
from neuron_mech.store import files

WIDTH = 1000
"""Pixels across a published figure, at most."""
LARGEST = 2**26
"""Bytes of a figure, at most."""


def smaller(path: Path) -> bytes:
    """A figure with a palette of 128 colours and at most WIDTH pixels across, as PNG.

    Raises InputError where it cannot be read, or is absurdly large.
    """
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(files.read(path, LARGEST))) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            small = image.convert("RGB")
    # Pillow's kinds of saying that a picture is damaged, or too large.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}): remove it, and draw it again") from None
    small.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    # Thin lines are few pixels: a palette by their number would mix their colours.
    few = small.quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(data, "PNG", optimize=True)
    return data.getvalue()


def copy(path: Path, place: Path, largest: int) -> None:
    """Copy a file into the directory `place`, or where it has more than `largest` bytes say that it is left out."""
    if (size := path.stat().st_size) <= largest:
        files.write_bytes(place / path.name, files.read(path))
    else:
        (place / path.name).unlink(missing_ok=True)  # of an earlier run
        print(f"left out: {path} has {size / 1e6:.1f} MB, more than the {largest / 1e6:g} MB published")
