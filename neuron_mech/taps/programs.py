"""A model as the list of its operations, and the places in it where values can be read, replaced or differentiated."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import errors

from neuron_mech.errors import InputError, first_line
from neuron_mech.precision import rewriting
from neuron_mech.taps.functions import Call, calls
from neuron_mech.taps.inputs import arguments
from neuron_mech.taps.marking import mark_p, marked, scope_of

Address = tuple[int, ...]
"""Where an operation is: its number, and for each program around it that program's number and its operation's."""

INSIDE = {"jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "scan"}
"""Operations that hold others that can be reached. Of any other, what it holds stays as it is."""


@dataclass(frozen=True)
class Place:
    """A value of the program, or of each turn of a loop or each member of a `vmap`."""

    path: str
    kind: str
    role: str
    """pre_activation or activation. What has one value only has it as its pre-activation."""
    address: Address
    shape: tuple[int, ...]
    """As it is there: first the axes that a `vmap` hides from the module, then the module's own."""
    dtype: Any
    mapped: tuple[int, ...] = ()
    loops: tuple[int, ...] = ()
    """Turns of the loops around it."""
    trouble: str = ""
    call: Call | None = None
    """Of a function: the operations that it is."""
    batch: int | None = 0
    """Which axis is the batch, if one is."""

    @property
    def members(self) -> tuple[int, ...]:
        """Sizes of the hidden axes that are not the batch."""
        return tuple(size for axis, size in enumerate(self.mapped) if axis != self.batch)

    @property
    def uses(self) -> int:
        """How many sites it is: one for each turn and member."""
        return math.prod(self.loops) * math.prod(self.members)

    @property
    def several(self) -> bool:
        """Whether its sites are numbered though there may be one only."""
        return bool(self.loops or self.members)

    @property
    def order(self) -> tuple[int, ...]:
        """Its axes as sites have them: members, the batch, all others."""
        members = [axis for axis in range(len(self.mapped)) if axis != self.batch]
        batch = [] if self.batch is None else [self.batch]
        return (*members, *batch, *(axis for axis in range(len(self.mapped), len(self.shape)) if axis != self.batch))

    @property
    def value(self) -> tuple[int, ...]:
        """The shape of one site's values: the batch first."""
        return tuple(self.shape[axis] for axis in self.order)[len(self.members) :]

    def split(self, value: jax.Array) -> jax.Array:
        """The value as (members, batch, ...)."""
        return value.transpose(self.order).reshape(-1, *self.value)

    def joined(self, value: jax.Array) -> jax.Array:
        """What `split` makes, made into the value again."""
        shape = tuple(self.shape[axis] for axis in self.order)
        return value.reshape(shape).transpose(np.argsort(self.order))


@dataclass(frozen=True)
class Program:
    """What a model does with these arguments."""

    jaxpr: Any
    consts: tuple[Any, ...]
    arguments: tuple[Any, ...]
    out: Any
    """The tree of its outputs."""
    places: tuple[Place, ...]
    size: int | None = None
    """Of the batch."""


def traced(model: nn.Module, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Program:
    """The program of `model.apply` with these arguments, and its places in the order of computation."""
    size = _batch(args)  # of Inputs, those by keyword too
    args, kwargs = arguments(args, kwargs)
    with explained(model):
        program = _traced(model, dict(variables), args, kwargs)
    places = tuple(replace(place, batch=_unambiguous(place, size)) for place in program.places)
    if any(size in place.shape and place.batch != 0 for place in places):
        places = _told_apart(model, variables, args, kwargs, places, size)
    return replace(program, places=places, size=size)


@contextmanager
def explained(model: Any) -> Iterator[None]:
    """A context in which a model may be run: what JAX, Flax and Python say of its call becomes what to do."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model is a {type(model).__name__}: give the flax.linen Module itself, not its apply or a function of "
            "it; of an NNX model, both things that neuron_mech.from_nnx(model) gives"
        )
    try:
        yield
    except NameError as error:
        if "axis name" not in str(error):
            raise
        raise InputError(
            f"the model has an axis_name that exists inside a pmap or shard_map only ({first_line(error)}): make it "
            "without one here, or with running statistics"
        ) from error
    except TypeError as error:
        if not any(f"{call}() {wrong}" in str(error) for call in ("__call__", "call") for wrong in _CALLS):
            raise
        raise InputError(
            f"the model cannot be called like this ({first_line(error)}): what goes with the samples, if it is more "
            "than one argument, is neuron_mech.Inputs(x, t), by position or keyword; what is the same for all is "
            "apply={'train': False}"
        ) from error
    except tuple(_MENDED) as error:
        what = next(said for kind, said in _MENDED.items() if isinstance(error, kind))
        raise InputError(f"{what}; Flax says: {first_line(error).partition(' (http')[0]}") from error


_CALLS = ("missing", "got an unexpected keyword argument", "got multiple values", "takes")
"""What Python says of a call with other arguments than a function has."""

_MENDED: dict[type[Exception], str] = {
    **dict.fromkeys(
        (errors.ScopeCollectionNotFound, errors.ScopeParamNotFoundError, errors.ScopeVariableNotFoundError),
        "variables are not all that the model has: give what model.apply takes, {'params': params}, and beside it what "
        "else init made, such as batch_stats",
    ),
    errors.ScopeParamShapeError: "variables are of another network, or inputs of another shape than it was made for",
    errors.InvalidRngError: "the model draws at random: give it keys, apply={'rngs': {'dropout': key}}, or switch that "
    "off, as train=False or deterministic=True does",
    errors.ModifyScopeVariableError: "the model updates its statistics: say so, apply={'mutable': ['batch_stats']}, or "
    "use running ones, as train=False does",
}
"""Flax's errors that a caller can mend, and how."""


def _traced(model: nn.Module, variables: Mapping[str, Any], args: tuple, kwargs: Mapping[str, Any]) -> Program:
    leaves, tree = jax.tree.flatten((variables, args, dict(kwargs)))
    arrays = [index for index, leaf in enumerate(leaves) if hasattr(leaf, "shape")]

    def run(*given: Any) -> Any:
        every = list(leaves)
        for index, value in zip(arrays, given, strict=True):
            every[index] = value
        variables, args, kwargs = jax.tree.unflatten(tree, every)
        return marked(model)(variables, *args, **kwargs)

    given = tuple(leaves[index] for index in arrays)
    closed, shapes = jax.make_jaxpr(run, return_shape=True)(*given)
    return Program(closed.jaxpr, tuple(closed.consts), given, jax.tree.structure(shapes), tuple(_places(closed.jaxpr)))


def _places(
    jaxpr: Any, at: Address = (), scope: str = "", loops: tuple[int, ...] = (), trouble: str = ""
) -> Iterator[Place]:
    functions = calls(jaxpr)
    for index, equation in enumerate(jaxpr.eqns):
        address, here = (*at, index), scope_of(equation.source_info.name_stack, scope)
        if equation.primitive is mark_p:
            params, value = equation.params, equation.outvars[0].aval
            yield Place(
                *(params["path"], params["kind"].__name__, params["role"], address, value.shape, value.dtype),
                *(params["mapped"], loops, trouble),
            )
        elif call := functions.get(index):
            value = call.result.aval
            for role in ("pre_activation", "activation"):
                yield Place(
                    f"{here}:{call.name}", call.name, role, address, value.shape, value.dtype, (), loops, trouble, call
                )
        else:
            name = equation.primitive.name
            inside = "" if name in INSIDE else f"is inside a {name}, where values cannot be reached: name one outside"
            turns = (*loops, equation.params["length"]) if name == "scan" else loops
            for number, program in enumerate(rewriting.programs(equation)):
                yield from _places(program, (*address, number), here, turns, trouble or inside)


def float_types(jaxpr: Any) -> set[np.dtype]:
    """The types of all floats that a program computes, those inside its operations among them."""
    outs = [var.aval for equation in jaxpr.eqns for var in equation.outvars if hasattr(var.aval, "dtype")]
    found = {np.dtype(aval.dtype) for aval in outs if jax.numpy.issubdtype(aval.dtype, np.floating)}
    return found.union(*(float_types(inner) for equation in jaxpr.eqns for inner in rewriting.programs(equation)))


def _batch(args: tuple) -> int | None:
    """The first axis of the first array."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(args) if getattr(leaf, "shape", ())]
    return shapes[0][0] if shapes else None


def _unambiguous(place: Place, size: int | None) -> int | None:
    """The axis that is as long as the batch, where only one is. Other than the first, it may be so by chance."""
    axes = [axis for axis, length in enumerate(place.shape) if length == size]
    return axes[0] if len(axes) == 1 else None


def _told_apart(
    model: nn.Module,
    variables: Mapping[str, Any],
    args: tuple,
    kwargs: Mapping[str, Any],
    places: tuple[Place, ...],
    size: int | None,
) -> tuple[Place, ...]:
    """The places with the axis that grows where the batch does: none where values have no batch, or it is merged."""

    def longer(leaf: Any) -> Any:
        shape = getattr(leaf, "shape", ())
        if not size or shape[:1] != (size,):
            return leaf
        return jax.ShapeDtypeStruct((size + 1, *shape[1:]), jax.eval_shape(lambda one: one, leaf).dtype)

    rngs = {"rngs": kwargs["rngs"]} if "rngs" in kwargs else {}
    grown = jax.tree.map(longer, (args, {name: value for name, value in kwargs.items() if name not in rngs}))
    try:
        others: tuple[Place, ...] = _traced(model, dict(variables), grown[0], {**grown[1], **rngs}).places
    except Exception:  # a model of one batch size only: its first axis is the batch then
        others = ()
    if [place.address for place in others] != [place.address for place in places]:
        others = ()

    def told(place: Place, other: Place | None) -> Place:
        if size not in place.shape:
            return place
        if other is None:
            return replace(place, batch=0 if place.shape[0] == size else place.batch)
        grew = [axis for axis, (one, two) in enumerate(zip(place.shape, other.shape, strict=True)) if one != two]
        return replace(place, batch=grew[0] if len(grew) == 1 and place.shape[grew[0]] == size else None)

    return tuple(told(place, other) for place, other in zip(places, others or [None] * len(places), strict=True))
