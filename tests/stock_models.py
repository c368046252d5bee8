"""Networks as anyone would write them, stacks of layers under Flax's transforms, and batches for them."""

import flax.linen as nn

from drawn import integers, normal, started
from neuron_mech.training.models import Neurons


class StockMLP(nn.Module):
    """As anyone would write it: nothing in it knows of sites."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(16)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(nn.relu(nn.Dense(12)(x)))


class StockCNN(nn.Module):
    norm: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        return nn.Dense(10)(x.mean((1, 2)))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return Neurons(name="neurons")(nn.Dense(6, name="affine")(x)), None


class Wrapped(nn.Module):
    """A stack under nn.scan, with or without an axis for intermediates, or one layer under remat or jit."""

    wrap: str = "scan"

    @nn.compact
    def __call__(self, x):
        if self.wrap == "remat":
            x, _ = nn.remat(Layer)(name="layers")(x)
        elif self.wrap == "jit":
            x, _ = nn.jit(Layer)(name="layers")(x)
        elif self.wrap == "vmap":
            x, _ = nn.vmap(Layer, variable_axes={"params": None}, split_rngs={"params": False})(name="layers")(x)
        else:
            axes = {"params": 0} | ({"intermediates": 0} if self.wrap == "scan with axis" else {})
            x, _ = nn.scan(Layer, variable_axes=axes, split_rngs={"params": True}, length=3)(name="layers")(x, None)
        return nn.Dense(10, name="logits")(x)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        neurons = Neurons(name="shared")
        return nn.Dense(10)(neurons(nn.Dense(8)(neurons(nn.Dense(8)(x)))))


def batch(*shape, classes=10):
    return normal(1, *shape), integers(2, 0, classes, *shape[:1])


def initialised(model, x):
    return {"params": started(model, 0, x)["params"]}
