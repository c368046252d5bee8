"""What Flax's `intermediates` hold of a module, and how its calls are told apart."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn


def called_path(context: nn.module.InterceptorContext) -> str:
    """The path of the module that is being called."""
    return "/".join(context.module.path)


def sown_by(intermediates: Mapping[str, Any], name: str) -> tuple:
    """The values that a site sowed, one a call; empty where none got out."""
    node: Any = intermediates
    # A module's own name may have slashes in it, as those of NNX layers have.
    for part in (name,) if name in intermediates else name.split("/"):
        node = node.get(part, {})
    return node.get("pre_activation", node.get("__call__", ()))


def with_intermediates(kwargs: Mapping[str, Any]) -> list[str]:
    """What `apply` may change: intermediates, and what the caller said, such as batch statistics."""
    said = kwargs.get("mutable", False) or ()
    return ["intermediates", *([said] if isinstance(said, str) else said)]
