"""A model of an experiment begun as one program; `drawn.started` is for models that a test begins itself."""

from functools import partial

import flax.linen as nn
import jax
import pytest


def together(patch: pytest.MonkeyPatch, model: type[nn.Module]) -> None:
    """Compile all of `model.init` at once: outside of `jit` each of its operations is a program."""
    patch.setattr(model, "init", lambda self, *args: jax.jit(partial(nn.Module.init, self))(*args))
