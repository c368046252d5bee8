"""Between which numbers the fields of a config, and the options of experiments, may lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuron_mech.errors import InputError

WHOLE = "whole number"


@dataclass(frozen=True)
class Limits:
    """Between which numbers a field may lie. Not a number is never between."""

    low: float
    high: float
    what: str = "number"
    """What to give."""
    above: bool = False
    """Whether `low` itself is too low."""
    rather: str = ""
    """What else may be given."""

    def check(self, name: str, value: Any) -> None:
        """Raise InputError, naming the field, for a value that is no such number."""
        number = isinstance(value, int if self.what == WHOLE else (int, float)) and not isinstance(value, bool)
        if number and (self.low < value if self.above else self.low <= value) and value <= self.high:
            return
        least, most = f"{'above' if self.above else 'of at least'} {self.low:g}", f"at most {self.high:,}"
        # Of whole numbers the far end says nothing.
        give = f"{self.what} {least}" + ("" if self.what == WHOLE else f", {most}")
        if number and value > self.high:
            give = f"{self.what} of {most}"
        raise InputError(f"{name} is {repr(value)[:40]}: give a {give}{self.rather}")


_MANY = 2**31 - 1
"""What counts samples, steps and neurons are 32 bits wide."""

TINY, HUGE = 1e-30, 1e30
"""What float32 can hold, with room for products."""

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
"""The numbers that a config's fields may have; `all` and None are for those whose type says so."""


def check_once(name: str, values: Sequence[Any]) -> None:
    """Raise InputError, naming the field, for a value that is listed twice."""
    if twice := [value for index, value in enumerate(values) if value in values[:index]]:
        raise InputError(f"{name} has {twice[0]!r} twice: give each once")
