"""Kinds of models that other people write, each tiny, and beside it the same network written out by hand.

The hand-written one is a function of parameters and one sample. `at(name, value)` is called at every site: it gives the
value back, with something added where a derivative is wanted. Nothing of the package is in it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from drawn import integers
from neuron_mech import Inputs
from written_out import Kind, affine, normal


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(6, name="dense")(x))


Compiled = nn.jit(Block)


class Tower(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Compiled(name="block")(x)


class Towers(nn.Module):
    """Two towers, whose blocks nn.jit compiles once for both."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="out")(Tower(name="right")(Tower(name="left")(x)))


def towers(p, x, at):
    for name in ("left", "right"):
        x = jnp.tanh(at(f"{name}/block/dense", affine(p[name]["block"]["dense"], x)))
    return affine(p["out"], x)


class Turn(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.gelu(nn.Dense(6, name="dense")(x)), None


class Scanned(nn.Module):
    """As language models are written: parameters alone have an axis of layers."""

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            nn.remat(Turn, prevent_cse=False), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return nn.Dense(2, name="out")(layers(name="layers")(x, None)[0])


def scanned(p, x, at):
    for i in range(3):
        layer = jax.tree.map(lambda a, i=i: a[i], p["layers"]["dense"])
        x = at(f"layers:input@{i}", x)
        x = x + at(f"layers:gelu@{i}", jax.nn.gelu(at(f"layers/dense@{i}", affine(layer, x))))
    return affine(p["out"], x)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="out")(nn.RNN(nn.SimpleCell(5, name="cell"), name="rnn")(x)[:, -1])


def recurrent(p, x, at):
    state = jnp.zeros((len(x), 5))
    cell = p["cell"]
    for t in range(x.shape[1]):
        state = jnp.tanh(at(f"cell/i@{t}", affine(cell["i"], x[:, t])) + state @ cell["h"]["kernel"])
    return affine(p["out"], state)


class LongShort(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="out")(nn.RNN(nn.OptimizedLSTMCell(5, name="cell"), name="rnn")(x).mean(1))


def long_short(p, x, at):
    cell, c, h, outs = p["cell"], jnp.zeros((len(x), 5)), jnp.zeros((len(x), 5)), []
    for t in range(x.shape[1]):
        gate = {g: x[:, t] @ cell[f"i{g}"]["kernel"] + affine(cell[f"h{g}"], h) for g in "ifgo"}
        c = jax.nn.sigmoid(gate["f"]) * c + jax.nn.sigmoid(gate["i"]) * jnp.tanh(gate["g"])
        h = jax.nn.sigmoid(gate["o"]) * jnp.tanh(c)
        outs.append(at(f"cell:output2@{t}", h))
    return affine(p["out"], sum(outs) / len(outs))


class Experts(nn.Module):
    """Members with parameters of their own."""

    @nn.compact
    def __call__(self, x):
        members = nn.vmap(Block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3)
        return nn.Dense(2, name="out")(members(name="expert")(x).mean(0))


def experts(p, x, at):
    each = [jax.tree.map(lambda a, k=k: a[k], p["expert"]["dense"]) for k in range(3)]
    return affine(p["out"], sum(jnp.tanh(at(f"expert/dense@{k}", affine(one, x))) for k, one in enumerate(each)) / 3)


class OneByOne(nn.Module):
    """A block that takes one sample, mapped over the batch."""

    @nn.compact
    def __call__(self, x):
        mapped = nn.vmap(Block, variable_axes={"params": None}, split_rngs={"params": False})
        return nn.Dense(2, name="out")(mapped(name="block")(x))


def one_by_one(p, x, at):
    return affine(p["out"], jnp.tanh(at("block/dense", affine(p["block"]["dense"], x))))


class Linear(nn.Module):
    """A layer of one's own."""

    width: int

    @nn.compact
    def __call__(self, x):
        return x @ self.param("w", nn.initializers.normal(0.5), (x.shape[-1], self.width))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + Linear(6, name="mix")(nn.LayerNorm(name="norm")(x))


class Own(nn.Module):
    """No stock layer in it, and a parameter that the model itself holds."""

    @nn.compact
    def __call__(self, x):
        x = Residual(name="block_1")(Residual(name="block_0")(x))
        return nn.relu(x) @ self.param("head", nn.initializers.normal(0.5), (6, 2))


def own(p, x, at):
    for i in range(2):
        block = p[f"block_{i}"]
        x = at(f"block_{i}:input", x)
        y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
        y = at(f"block_{i}/norm", y * block["norm"]["scale"] + block["norm"]["bias"])
        x = x + at(f"block_{i}/mix", y @ block["mix"]["w"])
    return at(":relu", jnp.maximum(x, 0)) @ p["head"]


class Attends(nn.Module):
    """Tokens, and two arguments by keyword that go with the samples: a mask of padding, and segments."""

    @nn.compact
    def __call__(self, tokens, segments=None, *, mask, train=False):
        x = nn.Embed(11, 8, name="embed")(tokens) + nn.Embed(3, 8, name="segment")(segments)
        y = nn.MultiHeadDotProductAttention(2, name="attention")(x, mask=mask[:, None, None, :])
        y = nn.Dropout(0.5, deterministic=not train)(x + y)
        return nn.Dense(2, name="out")((y * mask[..., None]).sum(1) / mask.sum(1)[:, None])


def attends(p, given, at):
    tokens, segments, mask = given.args[0], given.args[1], given.kwargs["mask"]
    a = p["attention"]
    x = at("embed", p["embed"]["embedding"][tokens]) + p["segment"]["embedding"][segments]
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, a[n]["kernel"]) + a[n]["bias"] for n in ("query", "key", "value"))
    scores = jnp.einsum("bqhe,bkhe->bhqk", q / 2.0, k)
    scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
    pattern = at("attention:softmax", jnp.exp(scores) / jnp.exp(scores).sum(-1, keepdims=True))
    y = jnp.einsum("bqhe,hed->bqd", jnp.einsum("bhqk,bkhe->bqhe", pattern, v), a["out"]["kernel"]) + a["out"]["bias"]
    y = x + y
    return affine(p["out"], (y * mask[..., None]).sum(1) / mask.sum(1)[:, None])


class Bare(nn.Module):
    @nn.compact
    def __call__(self, x):
        for activation in (nn.relu, nn.gelu, nn.silu):
            x = nn.Dense(5)(x)
            x = activation(x)
        return nn.Dense(2)(x)


def bare(p, x, at):
    for i, (name, f) in enumerate(
        {"relu": lambda z: jnp.maximum(z, 0), "gelu": jax.nn.gelu, "silu": jax.nn.silu}.items()
    ):
        x = at(f":{name}", f(affine(p[f"Dense_{i}"], x)))
    return affine(p["Dense_3"], x)


class TimeMajor(nn.Module):
    """Time before batch, as long as it."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="out")(nn.tanh(nn.Dense(4, name="step")(x.swapaxes(0, 1))).mean(0))


def time_major(p, x, at):
    return affine(p["out"], jnp.tanh(at("step", affine(p["step"], x))).mean(1))


class TwoShapes(nn.Module):
    """One head at vectors and at their mean."""

    @nn.compact
    def __call__(self, x):
        head = nn.Dense(2, name="head")
        return head(x).sum(1) * nn.tanh(head(x.mean(1)))


def two_shapes(p, x, at):
    return at("head@0", affine(p["head"], x)).sum(1) * jnp.tanh(at("head@1", affine(p["head"], x.mean(1))))


TOKENS = integers(1, 0, 11, 6, 5)
SEGMENTS = jnp.asarray(np.asarray(TOKENS) % 3)
MASK = jnp.asarray(np.arange(5)[None] < np.array([5, 3, 4, 2, 5, 1])[:, None])
VECTORS, SEQUENCES = normal(2, 6, 7), normal(3, 6, 4, 7)
FEATURES = normal(4, 6, 6)

KINDS = {
    "jit": Kind(Towers(), VECTORS, "*/dense", ("left/block/dense", "right/block/dense"), towers),
    "scan, and its residual stream": Kind(
        Scanned(),
        FEATURES,
        ["layers/*", "layers:input@*"],
        (*(f"layers/dense@{i}" for i in range(3)), *(f"layers:input@{i}" for i in range(3))),
        scanned,
    ),
    "scan, activations": Kind(
        Scanned(), FEATURES, "layers:gelu@[02]", ("layers:gelu@0", "layers:gelu@2"), scanned, "activation"
    ),
    "recurrent": Kind(Recurrent(), SEQUENCES, "cell/i@*", tuple(f"cell/i@{t}" for t in range(4)), recurrent),
    "LSTM": Kind(LongShort(), SEQUENCES, "cell:output2@*", tuple(f"cell:output2@{t}" for t in range(4)), long_short),
    "vmap over members": Kind(Experts(), VECTORS, "expert/*", tuple(f"expert/dense@{k}" for k in range(3)), experts),
    "vmap over samples": Kind(OneByOne(), VECTORS, "block/*", ("block/dense",), one_by_one),
    "own layers, LayerNorm, residual stream": Kind(
        Own(),
        FEATURES,
        ["*/mix", "*/norm", "block_?:input"],
        tuple(f"block_{i}{site}" for site in ("/mix", "/norm", ":input") for i in range(2)),
        own,
    ),
    "several inputs": Kind(
        Attends(), Inputs(TOKENS, SEGMENTS, mask=MASK), "embed", ("embed",), attends, apply={"train": False}
    ),
    "attention": Kind(
        *(Attends(), Inputs(TOKENS, SEGMENTS, mask=MASK), "attention:softmax", ("attention:softmax",), attends),
        *("activation", {"train": False}),
    ),
    "bare functions": Kind(Bare(), VECTORS, ":*", (":relu", ":gelu", ":silu"), bare, "activation"),
    "time first": Kind(TimeMajor(), normal(5, 6, 6, 3), "step", ("step",), time_major),
    "two shapes": Kind(TwoShapes(), SEQUENCES, "head@*", ("head@0", "head@1"), two_shapes),
}
