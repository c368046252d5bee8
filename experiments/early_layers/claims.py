"""Claims 12a and 12b, of early_layers.nc."""

from __future__ import annotations

from typing import Literal

import numpy as np

from experiments.open_questions.judging import FROM, Measured, judged
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims import Claim

FILE = "early_layers.nc"


def judge(found: xr.Dataset) -> list[Claim]:
    """12a and 12b of each network, and whether the instrument works."""
    claims: list[Claim] = []
    for name in found.network.values:
        at = found.sel(network=name)
        at = at.sel(site=[site for site in at.site.values if np.isfinite(at.halves.sel(site=site)).any()])
        called = str(name).replace("deep", f"{at.sizes['site']} layers")
        claims += [_persistent(called, at), *_needed(called, at)]
    return claims


def _persistent(network: str, found: xr.Dataset) -> Claim:
    """12a of one network."""
    first = found.isel(site=0)
    where = f"{first.site.item()} of {network}"
    measured = [
        Measured(what, where, of.sel(source="derivative").values, ">", threshold, of.sel(source="null").values)
        for what, of, threshold in (
            ("correlation of average signs, first and last tenth", first.between_windows.isel(window=0)[..., -1], 0.5),
            ("correlation of average signs, odd and even recordings", first.halves, 0.9),
        )
    ]
    claim = Claim(
        f"12a, {network}",
        FROM,
        "The first layer's signs carry a signal that persists through training",
        "half of what two tenths of training could share; nine tenths of what odd and even recordings could",
        "equal displacement: the weights moved as far, by the same numbers, in another direction",
        FILE,
    )
    return judged(claim, measured)


SAID = "of the gain over chance, kept with"
"""Of ordinary training's test accuracy over chance, the share that an arm's has."""


def _needed(network: str, found: xr.Dataset) -> list[Claim]:
    """12b of one network, both ways, and the instrument: own categories work, others do not."""
    chance = 1 / int(found.attrs["classes"])
    final = found.accuracy.sel(part="test").isel(epoch=-1)
    share = (final - chance) / (final.sel(arm="ordinary") - chance)

    def kept(arm: str, said: str, relation: Literal[">", "<"], threshold: float) -> Measured:
        return Measured(f"{SAID} {said}", network, share.sel(arm=arm).values, relation, threshold, unit="%")

    own = kept("own", "the sample's own signs", ">", 0.95)
    other = kept("another seed", "another seed's signs", "<", 0.5)
    shuffled = kept("own, shuffled", "its own, dealt to other samples", "<", 0.5)
    key = [kept("own", "the sample's own signs", "<", 0.8)]
    if np.isfinite(share.sel(arm="16 masks")).any():  # they are not tried with batch statistics
        # Above one: what averaging over masks adds to ordinary training.
        key.append(kept("16 masks", "16 dropout masks a step", "<", 1.01))
    none = "none: another seed's and shuffled signs are conditions of their own"
    allowed = "one part in twenty may be lost, or half and more must be"
    return [
        judged(Claim(f"{id}, {network}", FROM, said, allowed, none, FILE), measured)
        for id, said, measured in (
            ("12b inconvenience", "Training does without changes of the signs", (own, other)),
            ("12b key", "Training needs changes of the signs, which are no mask's noise", key),
            (
                "12b instrument",
                "Frozen signs train if they are the sample's own, and no others do",
                (own, other, shuffled),
            ),
        )
    ]
