"""The explorer's data as bytes: a JSON header with the place of each array, then the arrays, all gzipped."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuron_mech import store
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims import Findings
from neuron_mech.paper.pages import data_url

SAMPLES = 1500
"""Largest number of samples in the explorer: the first of those recorded, whose order is random."""

SHEET = "samples"
"""Name of the picture of these samples in figures/: small images side by side, row by row."""

MISSING = -128
"""Stands for the average sign of a pair without a nonzero recording; others are in hundredths, -100 to 100."""


def packed(directory: Path, found: Findings) -> bytes | None:
    """The explorer's data of a run directory, gzipped; None where the directory has no average_signs.nc.

    The first four bytes give the length of the header (little-endian), which has every array's place, shape and type.
    """
    path = directory / "average_signs.nc"
    if not store.whole(path):
        return None
    signs = store.read_dataset(path).isel(sample=slice(SAMPLES))
    average = signs.average_sign.transpose("neuron", "sample").values
    hundredths = np.where(np.isnan(average), MISSING, np.round(100 * np.nan_to_num(average)))
    arrays = {"signs": hundredths.astype(np.int8)}
    header: dict[str, Any] = {
        "preset": found.preset,
        "samples": signs.sample.values.tolist(),
        "labels": signs.label.values.tolist(),
        "classes": int(signs.label.max()) + 1,
        "sites": _sites(signs, found),
        "sheet": _sheet(directory),
    }
    arrays |= _of_signs(found, signs) | _of_learning(found, signs, header) | _of_codes(found, signs)
    return gzip.compress(_joined(header, arrays), 6, mtime=0)


def _joined(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """The header with every array's place, then the arrays, each starting at a multiple of eight bytes."""
    body, places = b"", {}
    for name, values in arrays.items():
        places[name] = {"at": len(body), "shape": values.shape, "type": values.dtype.name}
        body += values.tobytes()
        body += bytes(-len(body) % 8)
    head = json.dumps({**header, "arrays": places}, separators=(",", ":")).encode()
    head += b" " * (-(len(head) + 4) % 8)
    return len(head).to_bytes(4, "little") + head + body


def _sites(signs: xr.Dataset, found: Findings) -> list[dict[str, Any]]:
    """The sites, each with its name, its label, its neurons' indices, and the accuracy through windows of it."""
    windows, sites = found.binarization, []
    labels = dict(zip(found.signs[0].site.values, found.signs[0].label.values, strict=True)) if found.signs else {}
    for site in dict.fromkeys(signs.neuron_site.values.tolist()):
        of: dict[str, Any] = {
            "name": site,
            "label": str(labels.get(site, site)),
            "neurons": signs.neuron_index.values[signs.neuron_site.values == site].tolist(),
        }
        if windows is not None and site in windows.site.values:
            by_center = windows.accuracy_by_seed.sel(site=site).mean("seed")
            of["windows"] = {
                "centers": windows.window_center.values.tolist(),
                "chance": float(windows.chance),
                "accuracy": {
                    str(source): [None if np.isnan(one) else round(float(one), 4) for one in curve]
                    for source, curve in zip(windows.source.values, by_center.values, strict=True)
                },
            }
        sites.append(of)
    return sites


def _sheet(directory: Path) -> dict[str, Any] | None:
    """The samples' picture as a data URL; None where it is missing."""
    path = directory / "figures" / f"{SHEET}.png"
    return {"url": data_url(path)} if store.whole(path) else None


def _aligned(found: xr.Dataset, names: Sequence[str], like: xr.Dataset) -> dict[str, np.ndarray]:
    """Variables with `neuron` as the first dimension, for the neurons of `like` in order; NaN for missing ones."""
    rows = found.indexes["neuron"].get_indexer(like.indexes["neuron"])
    chosen = {}
    for name in (name for name in names if name in found):
        values = found[name].transpose("neuron", ...).values[rows].astype(np.float32)
        values[rows < 0] = np.nan
        chosen[name] = values
    return chosen


def _of_signs(found: Findings, signs: xr.Dataset) -> dict[str, np.ndarray]:
    """Each neuron's histogram, constancy and low share, of all recorded samples; and the low share of each class."""
    chosen: dict[str, np.ndarray] = {}
    if found.signs:
        chosen |= _aligned(found.signs[0], ("neuron_histogram", "neuron_constancy", "neuron_low_share"), signs)
    if found.classes:
        chosen |= _aligned(found.classes[0], ("low_share",), signs)
    return chosen


def _of_learning(found: Findings, signs: xr.Dataset, header: dict[str, Any]) -> dict[str, np.ndarray]:
    """Each neuron's separation over training, and the histograms of its two categories at each moment."""
    if not found.dynamics:
        return {}
    dynamics = found.dynamics[0]
    header["epochs"] = dynamics.wide_epoch.values.tolist()
    chosen = _aligned(dynamics.sel(partition="own"), ("auc",), signs)
    if "value_histogram" in dynamics:
        counts = _aligned(dynamics, ("value_histogram",), signs)["value_histogram"]
        peak = np.nanmax(counts, axis=(2, 3), keepdims=True, initial=1)
        chosen["values"] = np.nan_to_num(255 * counts / peak).round().astype(np.uint8)
        chosen["edges"] = _aligned(dynamics, ("value_range",), signs)["value_range"]
    return chosen


def _of_codes(found: Findings, signs: xr.Dataset) -> dict[str, np.ndarray]:
    """Each neuron's best threshold, and what its one bit and its whole value say about the label."""
    codes = found.quantization
    if codes is None:
        return {}
    names = {"best_rank": "best_rank", "code_information": "bit", "value_information": "whole"}
    by_seed = [f"{name}_by_seed" for name in names if f"{name}_by_seed" in codes]
    first = codes[by_seed].isel(seed=0)
    chosen = _aligned(first, by_seed, signs)
    return {names[name.removesuffix("_by_seed")]: values for name, values in chosen.items()}
