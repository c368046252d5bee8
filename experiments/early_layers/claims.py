"""Claims 12a and 12b, of early_layers.nc."""

from __future__ import annotations

from typing import Any

from experiments.open_questions.findings import Condition, claim
from neuron_mech.lazily import xarray as xr

FILE = "early_layers.nc"


def of_early_layers(found: xr.Dataset) -> list[dict[str, Any]]:
    """12a: a persistent signal exists early. 12b: changes of sign are an inconvenience, or a key; and the instrument."""
    scope = f"a perceptron of {found.attrs['depth']} layers of {found.attrs['neurons']} on {found.attrs['data']}"
    early = found.isel(site=0)
    lasting = early.between_windows.isel(window=0, other_window=-1)
    reliable = early.halves
    persistent = claim(
        "12a",
        "the first layer's signs carry a signal that persists through training",
        FILE,
        [
            Condition(
                "correlation of average signs in the first and the last tenth of training",
                lasting.sel(source="derivative").values,
                ">",
                0.5,
                "equal displacement (N1)",
                (lasting.sel(source="derivative") - lasting.sel(source="null")).values,
            ),
            Condition(
                "correlation of average signs of odd and even recordings",
                reliable.sel(source="derivative").values,
                ">",
                0.9,
                "equal displacement (N1)",
                (reliable.sel(source="derivative") - reliable.sel(source="null")).values,
            ),
        ],
        scope,
    )
    chance = 1 / found.attrs["classes"]
    final = found.accuracy.sel(part="test").isel(epoch=-1)
    usual = final.sel(arm="ordinary")
    share = {str(arm): ((final.sel(arm=arm) - chance) / (usual - chance)).values for arm in found.arm.values}
    said = "of what ordinary training gains over chance, the share gained"
    own = Condition(f"{said} with the sample's own signs frozen", share["own"], ">", 0.95)
    other = Condition(f"{said} with another seed's", share["another seed"], "<", 0.5)
    shuffled = Condition(f"{said} with its own, dealt to other samples", share["own, shuffled"], "<", 0.5)
    needed = Condition(f"{said} with the sample's own signs frozen", share["own"], "<", 0.8)
    key = [needed]
    if masks := [arm for arm in share if arm.endswith("masks")]:
        helped = Condition(f"the same with {masks[-1]} a step", share[masks[-1]] - 1, "<", 0.01)
        key.append(helped)
    return [
        persistent,
        claim("12b inconvenience", "training does without changes of the signs", FILE, [own, other], scope),
        claim("12b key", "training needs changes of the signs, and they are no mask's noise", FILE, key, scope),
        claim(
            "12b instrument",
            "frozen-sign training works with a network's own categories and fails with others",
            FILE,
            [own, other, shuffled],
            scope,
        ),
    ]
