"""The neuron explorer: one HTML file in which every neuron of a run can be looked up. It needs no network."""

import base64
from pathlib import Path

from neuron_mech.paper.claims import Findings
from neuron_mech.paper.explorer.payload import MISSING as MISSING
from neuron_mech.paper.explorer.payload import SAMPLES as SAMPLES
from neuron_mech.paper.explorer.payload import SHEET as SHEET
from neuron_mech.paper.explorer.payload import packed as packed
from neuron_mech.paper.pages import rendered


def html(directory: Path, found: Findings) -> str | None:
    """The explorer of a run directory as HTML; None where the directory has no average_signs.nc.

    Of each neuron it shows the histogram of its average signs, the samples it pushes down and up, how its two
    categories come apart while it learns, their classes, its best threshold, and the windows of its layer. Parts whose
    result file is missing are left out. The data are in the page, compressed, and the browser unpacks them.
    """
    data = packed(directory, found)
    return None if data is None else rendered("explorer", preset=found.preset, data=base64.b64encode(data).decode())
