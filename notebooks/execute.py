"""Run the notebooks from top to bottom and store them with what they show, pictures made small.

    python notebooks/execute.py

They read runs/digits, wherever the project has it. Needs the extras `test` or `notebooks`, and nbclient.
"""

import base64
import io
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

WIDTH = 720
"""Pixels across a stored picture, at most."""
COLOURS = 64
LONGEST = 4000
"""Characters of a stored text, at most."""


def small(picture: str) -> str:
    """A PNG in base64 with few colours and at most WIDTH pixels across."""
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        shown = Image.new("RGB", image.size, "white")
        shown.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    shown.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    few = shown.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode() + "\n"


def shortened(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """What is worth storing of an executed notebook: small pictures, short texts, no widgets, no times, no paths."""
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []) if cell.cell_type == "code" else []:
            kept = output.get("data", {})
            for kind in [kind for kind in kept if "widget" in kind or kind == "text/html"]:
                if kind != "text/html" or len(kept[kind]) > LONGEST:
                    del kept[kind]
            if "image/png" in kept:
                kept["image/png"] = small(kept["image/png"])
        if cell.cell_type == "code":
            cell.outputs = [
                output for output in cell.outputs if output.output_type != "stream" or output.name == "stdout"
            ]
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("language_info", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    """Execute and store every notebook beside this file."""
    here = Path(__file__).parent
    for path in sorted(here.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(here)}}).execute()
        nbformat.write(shortened(notebook), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
