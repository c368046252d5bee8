"""Running a model's traced program with values read, replaced or added to at some of its places."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from neuron_mech.precision import rewriting
from neuron_mech.taps.functions import Call
from neuron_mech.taps.marking import mark_p
from neuron_mech.taps.programs import Address, Place, Program

Edit = Callable[[jax.Array], jax.Array]

Key = tuple[Address, str]


@dataclass(frozen=True)
class Task:
    """What is done at a place. In loops or a `vmap` it is several sites: turns of loops, then members of a `vmap`."""

    place: Place
    names: tuple[str, ...]
    edits: Mapping[str, Edit] = field(default_factory=dict)
    added: Mapping[str, jax.Array] = field(default_factory=dict)
    read: bool = False

    @property
    def key(self) -> Key:
        """The key of the place: its address and role."""
        return self.place.address, self.place.role

    @property
    def turns(self) -> int:
        """Number of turns of all loops around the place together."""
        return math.prod(self.place.loops)

    def sliced(self) -> tuple[Any, Any]:
        """(the added values, the number of the turn) for all turns, with the loops' axes first."""
        place = self.place
        turns = jnp.arange(self.turns).reshape(place.loops)
        if not self.added:
            return None, turns
        zero = jnp.zeros(place.value, place.dtype)
        parts = [self.added.get(name, zero) for name in self.names]
        return jnp.stack(parts).reshape(*place.loops, -1, *place.value), turns

    def _members(self, turn: int) -> tuple[str, ...]:
        count = len(self.names) // self.turns
        return self.names[turn * count : (turn + 1) * count]

    def done(self, value: jax.Array, part: tuple[Any, Any]) -> tuple[jax.Array, jax.Array | None]:
        """(the new value, the values read) in one turn; the values read have shape (members, batch, ...)."""
        added, turn = part
        parts = self.place.split(value)
        if added is not None:
            parts = parts + added
        if self.edits:
            branches = [partial(self._edited, self._members(k)) for k in range(self.turns)]
            parts = jax.lax.switch(turn, branches, parts) if self.place.loops else branches[0](parts)
        changed = added is not None or self.edits
        return self.place.joined(parts) if changed else value, parts if self.read else None

    def _edited(self, members: tuple[str, ...], parts: jax.Array) -> jax.Array:
        if not any(name in self.edits for name in members):
            return parts
        return jnp.stack(
            [self.edits[name](part) if name in self.edits else part for name, part in zip(members, parts, strict=True)]
        )


def run(program: Program, tasks: list[Task]) -> tuple[Any, dict[str, jax.Array]]:
    """(outputs, {site: values read}) of the program with these tasks."""
    todo = {task.key: task for task in tasks}
    parts = {key: task.sliced() for key, task in todo.items()}
    out, found = _Runner(todo).run(program.jaxpr, program.consts, program.arguments, (), parts)
    values: dict[str, jax.Array] = {}
    for key, value in found.items():
        task = todo[key]
        flat = value.reshape(-1, *task.place.value)
        values |= dict(zip(task.names, flat, strict=True))
    return jax.tree.unflatten(program.out, out), values


class _Runner:
    def __init__(self, todo: Mapping[Key, Task]):
        self.todo = todo
        self.around = {address[:depth] for address, _ in todo for depth in range(1, len(address))}
        """Addresses of operations that hold a place with a task."""

    def run(
        self, jaxpr: Any, consts: Any, args: Any, at: Address, parts: Mapping[Key, Any]
    ) -> tuple[list[Any], dict[Key, jax.Array]]:
        """(outputs, {place: values read}) of the operations, run one after another."""
        values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        found: dict[Key, jax.Array] = {}
        ends: dict[int, list[tuple[Task, Call, Any]]] = {}

        def value(name: Any) -> Any:
            return name.val if isinstance(name, jex.Literal) else values[name]

        def do(task: Task, value: Any) -> Any:
            new, read = task.done(value, parts[task.key])
            if read is not None:
                found[task.key] = read
            return new

        for index, equation in enumerate(jaxpr.eqns):
            address = (*at, index)
            before, after = self.todo.get((address, "pre_activation")), self.todo.get((address, "activation"))
            for task in (before, after):
                if task and (call := task.place.call):
                    ends.setdefault(call.last, []).append((task, call, value(call.operand)))
            if before and before.place.call:
                values[before.place.call.operand] = do(before, value(before.place.call.operand))
            if equation.primitive is mark_p:
                (operand,) = (value(name) for name in equation.invars)
                here = before or after
                values[equation.outvars[0]] = do(here, operand) if here else operand
            else:
                with equation.ctx.manager:
                    operands = [value(name) for name in equation.invars]
                    if address in self.around:
                        out, inner = self.inside(equation, operands, address, parts)
                        found |= inner
                    else:
                        out = _bind(equation, operands)
                values.update(zip(equation.outvars, out, strict=True))
            for task, call, operand in ends.pop(index, ()):
                if task.place.role == "pre_activation":
                    values[call.operand] = operand
                else:
                    values[call.result] = do(task, values[call.result])
        return [value(name) for name in jaxpr.outvars], found

    def inside(
        self, equation: Any, operands: list[Any], at: Address, parts: Mapping[Key, Any]
    ) -> tuple[list[Any], dict[Key, jax.Array]]:
        """`run` for an operation that contains a place with a task."""
        (program,) = rewriting.programs(equation)
        consts = getattr(equation.params.get("jaxpr"), "consts", ())
        at = (*at, 0)
        if equation.primitive.name in ("remat2", "checkpoint"):
            again = jax.checkpoint(
                lambda *args: self.run(program, consts, args, at, parts),
                prevent_cse=equation.params["prevent_cse"],
                policy=equation.params["policy"],
            )
            return again(*operands)
        if equation.primitive.name == "scan":  # each turn gets its added values, and returns its values read
            here = {key: part for key, part in parts.items() if key[0][: len(at)] == at}
            turn = lambda args, mine: self.run(program, consts, args, at, mine)  # noqa: E731
            return rewriting.turned(equation.params, operands, turn, here)
        return self.run(program, consts, operands, at, parts)


def _bind(equation: Any, operands: list[Any]) -> list[Any]:
    """The outputs of an unchanged operation."""
    out = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(dict(equation.params)))
    return out if equation.primitive.multiple_results else [out]
