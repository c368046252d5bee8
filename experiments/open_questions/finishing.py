"""The end of an experiment: its results, figures and claims, in files and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.open_questions.findings import shown
from neuron_mech import store
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper import figures
from neuron_mech.store import files


def finish(
    directory: Path, name: str, found: xr.Dataset, drawn: Mapping[str, Figure], claims: Sequence[dict[str, Any]]
) -> None:
    """Write figures/, claims.json and NAME.nc, last; print the claims and where all is."""
    for title, figure in drawn.items():
        figures.write_figure(directory, title, figure)
    files.write_text(directory / "claims.json", json.dumps(_plain(claims), indent=2, allow_nan=False) + "\n")
    store.write_dataset(directory / f"{name}.nc", found)
    print("\n".join(shown(claim) for claim in claims))
    print(f"results: {directory / f'{name}.nc'}; claims: {directory / 'claims.json'}; figures: {directory / 'figures'}")


def _plain(value: Any) -> Any:
    """Numbers as JSON has them: what is no number as None."""
    if isinstance(value, Mapping):
        return {key: _plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(of) for of in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
