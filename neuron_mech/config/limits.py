"""Limits of the numbers in the fields of a config and in the options of experiments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuron_mech.errors import InputError

WHOLE = "whole number"


@dataclass(frozen=True)
class Limits:
    """The numbers that a field may have: from `low` to `high`."""

    low: float
    high: float
    what: str = "number"
    """Name of such a number in the error."""
    above: bool = False
    """Whether `low` itself is excluded."""
    rather: str = ""
    """Other possible values, for the error."""

    def check(self, name: str, value: Any) -> None:
        """Raise InputError, naming the field, for a value that is not such a number (NaN never is)."""
        number = isinstance(value, int if self.what == WHOLE else (int, float)) and not isinstance(value, bool)
        if number and (self.low < value if self.above else self.low <= value) and value <= self.high:
            return
        least, most = f"{'above' if self.above else 'of at least'} {self.low:g}", f"at most {self.high:,}"
        # The upper limit of whole numbers does not help the user.
        give = f"{self.what} {least}" + ("" if self.what == WHOLE else f", {most}")
        if number and value > self.high:
            give = f"{self.what} of {most}"
        raise InputError(f"{name} is {repr(value)[:40]}: give a {give}{self.rather}")


_MANY = 2**31 - 1
"""Samples, steps and neurons are counted in 32 bits."""

TINY, HUGE = 1e-30, 1e30
"""Limits of float32, with room for products."""

LIMITS = {
    "data.pixels": Limits(1, 4096, WHOLE, rather=", or None"),
    "data.train_images": Limits(1, _MANY, WHOLE),
    "data.test_images": Limits(1, _MANY, WHOLE),
    "model.depth": Limits(1, 1000, WHOLE),
    "model.dropout": Limits(0, 0.999, "share"),
    "train.learning_rate": Limits(TINY, HUGE, "positive, finite step size"),
    "train.drop_after": Limits(0, 1, "share", above=True),
    "train.drop_factor": Limits(TINY, HUGE, "positive, finite factor"),
    "train.batch_size": Limits(1, _MANY, WHOLE),
    "train.epochs": Limits(1, 100_000, WHOLE),
    "train.seed": Limits(0, 2**32 - 1, WHOLE),
    "record.every": Limits(1, _MANY, WHOLE),
    "record.samples": Limits(1, _MANY, WHOLE),
    "record.neurons": Limits(1, _MANY, WHOLE),
    "record.chunk": Limits(1, _MANY, WHOLE),
    "record.saturation": Limits(0, 1, "accuracy", above=True),
    "watch.recordings": Limits(0, _MANY, WHOLE),
    "watch.samples": Limits(2, _MANY, WHOLE),
    "watch.neurons": Limits(0, _MANY, WHOLE),
    "watch.wide_recordings": Limits(2, _MANY, WHOLE),
    "watch.wide_samples": Limits(2, _MANY, WHOLE),
    "watch.weights": Limits(0, _MANY, WHOLE),
}
"""Limits of a config's fields; fields whose type allows `all` or None may have these too."""


def check_once(name: str, values: Sequence[Any]) -> None:
    """Raise InputError, naming the field, for a value that is listed twice."""
    if twice := [value for index, value in enumerate(values) if value in values[:index]]:
        raise InputError(f"{name} has {twice[0]!r} twice: give each once")
