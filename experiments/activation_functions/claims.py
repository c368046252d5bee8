"""Claim 15, of activation_functions.nc, and what its summary is made of."""

from __future__ import annotations

import numpy as np

from experiments.open_questions.judging import FROM, Measured, judged
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims import Claim

UNIT, GATE = "partition + median", "symmetric gate + median"
RIVALS = ("relu", "relu + median", "gelu", "sign, straight-through + median")


def final(found: xr.Dataset) -> xr.DataArray:
    """Test accuracy at the end, (arm, seed)."""
    return found.accuracy.sel(part="test").isel(epoch=-1)


def window_slope(found: xr.Dataset) -> xr.DataArray:
    """Slope of logit(accuracy) on |center - 50| / 45 by least squares: above 0 where outer windows tell more."""
    test = int(found.attrs["test_samples"])
    # Half a sample from 0 and 1, where the logit is infinite.
    share = found.window_accuracy.clip(0.5 / test, 1 - 0.5 / test)
    away = abs(found.window_center - 50) / 45
    away = away - away.mean()
    return (np.log(share / (1 - share)) * away).sum("window_center") / (away**2).sum()


def kept(found: xr.Dataset) -> xr.DataArray:
    """K(r) = (accuracy of two values at rank r - chance) / (accuracy - chance), (arm, seed, site, rank).

    NaN for a network that is no better than chance, which has nothing to keep.
    """
    chance = 1 / int(found.attrs["classes"])
    gained = final(found) - chance
    return (found.quantized - chance) / gained.where(gained > 0)


def separation_speed(found: xr.Dataset) -> xr.DataArray:
    """Epochs until half of the rise in the share of pairs on their side, at the last hidden layer, (arm, seed)."""
    share = found.on_side.isel(site=-1)
    low, high = share.isel(time=0), share.max("time")
    return (share >= (low + high) / 2).argmax("time")


def judge(found: xr.Dataset) -> list[Claim]:
    """15: the partition unit learns better than the usual functions; the null is the gate that knows no side."""
    accuracy = final(found)

    def ahead(arm: str, rival: str) -> np.ndarray:
        return (accuracy.sel(arm=arm) - accuracy.sel(arm=rival)).values

    claim = Claim(
        f"15, {found.attrs['depth']} layers",
        FROM,
        "An activation function made for partitions learns better than the usual ones",
        "any lead in test accuracy, over every rival",
        f"{GATE}: the same lead, of a gate that knows no side",
        "activation_functions.nc",
    )
    what = f"lead of {UNIT} in test accuracy"
    measured = [
        Measured(what, f"over {rival}", ahead(UNIT, rival), ">", 0, ahead(GATE, rival), "points") for rival in RIVALS
    ]
    return [judged(claim, measured)]
