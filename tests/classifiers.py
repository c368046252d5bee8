"""A small classifier that can be asked for one logit, for noise, and for arguments of its own."""

import flax.linen as nn

import drawn
import neuron_mech
from drawn import integers, normal


class Logits(nn.Module):
    """A classifier, with random layers where it trains."""

    outputs: int = 3
    squeeze: bool = False

    @nn.compact
    def __call__(self, x, train=False, seed=0.0, positions=None):
        x = nn.relu(nn.Dense(12, name="hidden")(x + seed + (0.0 if positions is None else positions)))
        x = nn.Dropout(0.5, deterministic=not train, name="drop")(x)
        x = nn.Dense(self.outputs, name="out")(x)
        return x.squeeze() if self.squeeze else x


X, Y = normal(0, 24, 7), integers(1, 0, 3, 24)


def started(model, x=X, **kwargs):
    return drawn.started(model, 2, x, **kwargs)


def asked(model, labels, x=X, **kwargs):
    """The same of signs and of a recorder."""
    variables = started(model, x)
    return [
        lambda: neuron_mech.signs(model, variables, x, labels, **kwargs),
        lambda: neuron_mech.recorder(model, variables, x, labels, recordings=1, audit=False, **kwargs),
    ]
