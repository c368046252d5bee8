"""Claims 12a and 12b, of early_layers.nc."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.open_questions.findings import Condition, claim
from neuron_mech.lazily import xarray as xr

FILE = "early_layers.nc"


def of_early_layers(found: xr.Dataset) -> list[dict[str, Any]]:
    """12a and 12b of each network, and whether the instrument works."""
    claims = []
    for name in found.network.values:
        at = found.sel(network=name)
        at = at.sel(site=[site for site in at.site.values if np.isfinite(at.halves.sel(site=site)).any()])
        scope = (
            f"{name}: a perceptron of {at.sizes['site']} layers of {found.attrs['neurons']} on {found.attrs['data']}"
        )
        claims += [_persistent(str(name), at, scope), *_needed(str(name), at, scope)]
    return claims


def _persistent(name: str, found: xr.Dataset, scope: str) -> dict[str, Any]:
    """12a of one network."""
    first = found.isel(site=0)
    lasting, reliable = first.between_windows.isel(window=0, other_window=-1), first.halves
    conditions = [
        Condition(what, of.sel(source="derivative").values, ">", threshold, *_null(of))
        for what, of, threshold in (
            ("correlation of average signs in the first and the last tenth of training", lasting, 0.5),
            ("correlation of average signs of odd and even recordings", reliable, 0.9),
        )
    ]
    said = "the first layer's signs carry a signal that persists through training"
    return claim(f"12a, {name}", said, FILE, conditions, scope)


def _null(of: xr.DataArray) -> tuple[str, np.ndarray | None]:
    lead = (of.sel(source="derivative") - of.sel(source="null")).values
    return "equal displacement (N1)", lead if np.isfinite(lead).all() else None


def _needed(name: str, found: xr.Dataset, scope: str) -> list[dict[str, Any]]:
    """12b of one network, both ways, and the instrument: own categories work, others do not."""
    chance = 1 / found.attrs["classes"]
    final = found.accuracy.sel(part="test").isel(epoch=-1)
    usual = final.sel(arm="ordinary")
    share = {str(arm): ((final.sel(arm=arm) - chance) / (usual - chance)).values for arm in found.arm.values}
    said = "of what ordinary training gains over chance, the share gained with"
    own = Condition(f"{said} the sample's own signs frozen", share["own"], ">", 0.95)
    other = Condition(f"{said} another seed's", share["another seed"], "<", 0.5)
    shuffled = Condition(f"{said} its own, dealt to other samples", share["own, shuffled"], "<", 0.5)
    key = [Condition(f"{said} the sample's own signs frozen", share["own"], "<", 0.8)]
    if np.isfinite(share["16 masks"]).any():  # they are not tried with batch statistics
        helped = share["16 masks"] - 1
        key.append(Condition(f"{said} 16 dropout masks a step, less ordinary training's", helped, "<", 0.01))
    works = "frozen-sign training works with a network's own categories and fails with others"
    return [
        claim(f"12b inconvenience, {name}", "training does without changes of the signs", FILE, [own, other], scope),
        claim(f"12b key, {name}", "training needs changes of the signs, which are no mask's noise", FILE, key, scope),
        claim(f"instrument, {name}", works, FILE, [own, other, shuffled], scope),
    ]
