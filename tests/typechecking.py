"""Shapes and types checked at every call, by beartype, for which an int is a float, as Python's typing has it."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

OFTEN = 3
"""A function inside another is checked the first times it is made: it is made anew at every call of the outer one, and
each time its checks would be, a tenth of the tests' time."""
_made: Counter[Any] = Counter()
_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """To be called before neuron_mech is imported."""
    jaxtyping.jaxtyped = _decorator  # what the import hook puts on every function
    jaxtyping.install_import_hook("neuron_mech", "typechecking.checked")


def _decorator(*args: Any, **options: Any) -> Callable[[Any], Any]:
    decorate = _jaxtyped(*args, **options)

    def decorated(function: Any) -> Any:
        if "<locals>" in getattr(function, "__qualname__", "") and hasattr(function, "__code__"):
            _made[function.__code__] += 1
            if _made[function.__code__] > OFTEN:
                return function
        return decorate(function)

    return decorated
