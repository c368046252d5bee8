"""Claims over seeds: the paper room's claims and verdicts, of values by seed and of what a null gives with each."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from neuron_mech.paper.claims import Claim, Condition, Null
from neuron_mech.paper.claims.claim import untested
from neuron_mech.paper.claims.estimates import estimate

FROM = "section 6"
"""Where the paper leaves these questions open."""


@dataclass(frozen=True)
class Measured:
    """One value a seed, against a threshold, and beside the null's."""

    what: str
    site: str
    values: Float[np.ndarray, " seeds"]
    relation: Literal[">", "<"]
    threshold: float
    null: Float[np.ndarray, " seeds"] | None = None
    """What the claim's null gives with the same seeds; NaN where it says nothing."""
    unit: str = ""

    def condition(self, null: str) -> Condition:
        """As the paper room has it; `null` is the claim's null, its name up to a colon."""
        nulls: tuple[Null, ...] = ()
        if self.null is not None and np.isfinite(self.null).any():
            ahead = (self.values - self.null) * (1 if self.relation == ">" else -1)
            nulls = (Null(null.partition(":")[0], float(np.nanmean(self.null)), estimate(ahead)),)
        value = estimate(self.values)
        return Condition(self.what, self.site, value, self.relation, self.threshold, nulls, self.unit)


def judged(claim: Claim, measured: Sequence[Measured]) -> Claim:
    """The claim with these conditions, all deciding. It is not tested where one of them has no value of any seed."""
    if lacking := [f"{of.what} ({of.site})" for of in measured if not np.isfinite(of.values).any()]:
        return untested(claim, f"no seed has a value of {'; '.join(lacking)}")
    return dataclasses.replace(claim, conditions=tuple(of.condition(claim.null) for of in measured)).judged()
