"""The neuron explorer: one HTML file in which every neuron of a run can be looked up. It needs no network."""

from __future__ import annotations

import base64
from pathlib import Path

from neuron_mech.lazily import jinja2
from neuron_mech.paper.claims import Findings
from neuron_mech.paper.explorer.payload import MISSING, SAMPLES, SHEET, packed

__all__ = ["MISSING", "SAMPLES", "SHEET", "html", "packed"]


def html(directory: Path, found: Findings) -> str | None:
    """The explorer of what a run directory holds; None where it has no average signs.

    What is shown of each neuron: the histogram of its average signs, the samples it pushes down and up, how its two
    categories come apart while it learns, their classes, its best threshold, and the windows of its layer. A part whose
    result file is missing is left out. The page holds its data, compressed, and unpacks them in the browser.
    """
    data = packed(directory, found)
    if data is None:
        return None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("neuron_mech.paper.explorer", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("explorer.html.jinja").render(
        preset=found.preset, data=base64.b64encode(data).decode()
    )
