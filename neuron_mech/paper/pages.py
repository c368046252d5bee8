"""HTML pages that are one file each: templates filled in, and files as data URLs inside them."""

import base64
from pathlib import Path
from typing import Any

from neuron_mech.lazily import jinja2
from neuron_mech.store import files

LARGEST = 2**26
"""Largest picture or video in bytes."""

TYPES = {".png": "image/png", ".mp4": "video/mp4", ".gif": "image/gif"}


def rendered(name: str, **values: Any) -> str:
    """The page of the template `neuron_mech/paper/NAME/NAME.html.jinja` with these values, text in them escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(f"neuron_mech.paper.{name}", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(f"{name}.html.jinja").render(values)


def data_url(path: Path) -> str:
    """A picture or video as a data URL. Raises OSError where it cannot be read or is larger than LARGEST."""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(files.read(path, LARGEST)).decode()}"
