"""The standard deviation of each measure between seeds, from which the interval of a single run is made.

Measured on five seeds of digits: for each measure the largest over its sites. `experiments.publish` writes it from the
claims.json of digits. The spread of a measure that digits does not have is unknown, and one run cannot decide it.
"""

import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

NAME = "spread.json"


@functools.cache
def measured() -> Mapping[str, float]:
    """{name of a measure: standard deviation between seeds}."""
    text = importlib.resources.files(__package__).joinpath(NAME).read_text(encoding="utf-8")
    return json.loads(text)["deviation"]


def between_seeds(what: str) -> float:
    """The standard deviation of a measure between seeds; NaN where it is not known."""
    return measured().get(what, float("nan"))


def of_claims(claims: list[dict[str, Any]]) -> dict[str, float]:
    """{name of a measure: the largest standard deviation between seeds} of the entries of a claims.json."""
    found: dict[str, float] = {}
    for condition in (c for claim in claims for c in claim["conditions"]):
        value = condition["value"]
        if value["seeds"] >= 3 and value["deviation"] is not None and np.isfinite(value["deviation"]):
            name = condition["what"]
            found[name] = max(found.get(name, 0.0), float(f"{value['deviation']:.3g}"))
    return dict(sorted(found.items()))
