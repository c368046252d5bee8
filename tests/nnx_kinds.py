"""Kinds of NNX models: what NNX's own transformations do with layers, beside the same network written out by hand."""

import jax
import jax.numpy as jnp
from flax import nnx

import neuron_mech
from drawn import started_nnx
from kinds import FEATURES, VECTORS
from written_out import Kind, affine, normal


class Block(nnx.Module):
    def __init__(self, rngs, width=6):
        self.dense = nnx.Linear(width, 6, rngs=rngs)

    def __call__(self, x):
        return nnx.tanh(self.dense(x))


def several(count, seed=0, **how):
    """Blocks whose parameters have an axis in front."""
    return nnx.split_rngs(splits=count)(nnx.vmap(lambda rngs: Block(rngs, **how)))(nnx.Rngs(seed))


class Net(nnx.Module):
    """A block, or several, and an output layer."""

    def __init__(self, block):
        self.block, self.out = block, nnx.Linear(6, 2, rngs=nnx.Rngs(1))


class Scanned(Net):
    """As NNX's guide writes a stack of layers: rematerialised, in a loop."""

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        @nnx.remat
        def layers(block, x):
            return x + block(x)

        return self.out(layers(self.block, x))


def scanned(p, x, at):
    for i in range(3):
        layer = jax.tree.map(lambda a, i=i: a[i], p["block"]["dense"])
        enters = at(f"block:input@{i}", x)  # the branch alone: what goes round the block is no part of its call
        x = x + jnp.tanh(at(f"block/dense@{i}", affine(layer, enters)))
    return affine(p["out"], x)


class Members(Net):
    """An ensemble, whose members have parameters of their own."""

    def __call__(self, x):
        return self.out(nnx.vmap(lambda block, x: block(x), in_axes=(0, None))(self.block, x).mean(0))


def members(p, x, at):
    each = [jax.tree.map(lambda a, k=k: a[k], p["block"]["dense"]) for k in range(3)]
    return affine(p["out"], sum(jnp.tanh(at(f"block/dense@{k}", affine(one, x))) for k, one in enumerate(each)) / 3)


class OneByOne(Net):
    """A block that takes one sample, mapped over the batch."""

    def __call__(self, x):
        return self.out(nnx.vmap(lambda block, x: block(x), in_axes=(None, 0))(self.block, x))


class Compiled(Net):
    """A block that nnx.jit compiles."""

    def __call__(self, x):
        return self.out(nnx.jit(lambda block, x: block(x))(self.block, x))


class CompiledBlock(Block):
    """A block whose call nnx.jit compiles."""

    @nnx.jit
    def __call__(self, x):
        return nnx.tanh(self.dense(x))


class Plain(Net):
    def __call__(self, x):
        return self.out(self.block(x))


def single(p, x, at):
    return affine(p["out"], jnp.tanh(at("block/dense", affine(p["block"]["dense"], x))))


class Recurrent(nnx.Module):
    """NNX's own loop over time."""

    def __init__(self):
        self.rnn = nnx.RNN(nnx.SimpleCell(6, 6, rngs=nnx.Rngs(0)))
        self.out = nnx.Linear(6, 2, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.out(self.rnn(x)[:, -1])


def recurrent(p, x, at):
    state, cell = jnp.zeros((len(x), 6)), p["rnn"]["cell"]
    for t in range(x.shape[1]):
        of_state = at(f"rnn/cell/dense_h@{t}", state @ cell["dense_h"]["kernel"])
        state = jnp.tanh(affine(cell["dense_i"], x[:, t]) + of_state)
    return affine(p["out"], state)


def kind(make, inputs, names, sites, by_hand):
    linen, variables = neuron_mech.from_nnx(started_nnx(make, 0))
    return Kind(linen, inputs, names, sites, by_hand, variables=variables)


LAYERS = tuple(f"block/dense@{i}" for i in range(3))

NNX_KINDS = {
    "nnx.scan, and inputs of blocks": kind(
        lambda: Scanned(several(3)),
        FEATURES,
        ["block/*", "block:input@*"],
        (*LAYERS, *(f"block:input@{i}" for i in range(3))),
        scanned,
    ),
    "nnx.vmap over members": kind(lambda: Members(several(3, width=7)), VECTORS, "block/*", LAYERS, members),
    "nnx.vmap over samples": kind(
        lambda: OneByOne(Block(nnx.Rngs(0), width=7)), VECTORS, "block/dense", ("block/dense",), single
    ),
    "nnx.jit": kind(lambda: Compiled(Block(nnx.Rngs(0), width=7)), VECTORS, "block/dense", ("block/dense",), single),
    "nnx.jit of a call": kind(
        lambda: Plain(CompiledBlock(nnx.Rngs(0), width=7)), VECTORS, "block/dense", ("block/dense",), single
    ),
    "nnx.RNN": kind(
        Recurrent, normal(3, 6, 4, 6), "*/dense_h@*", tuple(f"rnn/cell/dense_h@{t}" for t in range(4)), recurrent
    ),
}
