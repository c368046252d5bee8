"""Labels that a loss takes for something else than they say: they are refused, since its derivatives are numbers too.

A loss is a function that anyone writes, so it is asked: what does it give for these labels, and for others in their
place? The outputs that it is given are made up, so that the network is not run.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from neuron_mech.errors import InputError
from neuron_mech.taps import PerSampleLoss
from neuron_mech.taps.objectives import check_labels, margin
from neuron_mech.taps.random_keys import on_host

TRIED = 64
"""Largest number of samples whose labels are tried."""

LOOKED_THROUGH = 10**6
"""Largest number of labels among which different ones are looked for."""

OUTPUTS = 2**22
"""Largest number of made-up outputs, if a sample has no more."""


def check_labels_fit(loss: PerSampleLoss, labels: PyTree, outputs: PyTree) -> None:
    """Raise InputError where labels are of no class that a margin has, or not one for each sample.

    Of another loss, where it is no number for a label, where it takes a negative label for the class counted from the
    end, and where it reckons in a type of labels that has no room for what it reckons. `outputs` are the shapes of
    those of some samples.
    """
    if loss is not margin:
        _check_as_taken(loss, labels, outputs)
        return
    if not hasattr(labels, "shape") or len(labels.shape) != 1:
        shapes = ", ".join(str(list(jnp.shape(leaf))) for leaf in jax.tree.leaves(labels))
        raise InputError(
            f"labels have shape {shapes}: a margin takes one class index a sample, in one row; one-hot labels are "
            "labels.argmax(-1)"
        )
    check_labels(labels, outputs.shape[-1], "labels")


def _check_as_taken(loss: PerSampleLoss, labels: PyTree, outputs: PyTree) -> None:
    leaves = jax.tree.leaves(labels)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return  # inside a compiled function their values are not known
    whole = [np.asarray(leaf) for leaf in leaves if np.issubdtype(leaf.dtype, np.integer) and leaf.size]
    classes = outputs.shape[-1] if hasattr(outputs, "shape") and len(outputs.shape) > 1 else None
    narrow = [leaf.dtype for leaf in whole if _narrow(leaf)]
    if not narrow and not any(len(_beyond(leaf, classes)) for leaf in whole):
        return
    each = sum(int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(outputs))
    rows = _rows(whole, classes, max(1, min(TRIED, OUTPUTS // max(each, 1))))
    some = jax.tree.map(lambda leaf: on_host(leaf)[np.asarray(rows)], labels)
    made_up = jax.tree.map(lambda leaf: _made_up(leaf, len(rows)), outputs)
    compiled = jax.jit(loss)

    def losses(change: Callable[[np.ndarray], np.ndarray] = lambda leaf: leaf) -> np.ndarray:
        """The loss of each of these samples with its integer labels changed."""
        return np.asarray(compiled(made_up, jax.tree.map(lambda leaf: change(leaf) if _whole(leaf) else leaf, some)))

    found = losses()
    wide = losses(lambda leaf: leaf.astype(np.int32) if _narrow(leaf) else leaf) if narrow else found
    if (wrong := ~np.isclose(found, wide, rtol=1e-4, equal_nan=True)).any():
        row = rows[int(np.argmax(wrong))]
        raise InputError(
            f"loss is another number for labels as {narrow[0]} than as int32 (in row {row}), as where 1 - 2 * label is "
            "255 in uint8: give labels.astype(jnp.int32)"
        )
    rule = f"which is none of the outputs' {classes} classes, 0 to {classes - 1}" if classes else "though for label 0"
    if (wrong := np.isnan(found) & ~np.isnan(losses(np.zeros_like))).any():
        row = rows[int(np.argmax(wrong))]
        raise InputError(
            f"loss is no number for label {_outside(whole, row, classes)} (in row {row}), {rule}: give every sample "
            "its class, counted from 0, and leave out what is padding with jnp.where(padding, 0, loss)"
        )
    if not classes or classes < 2:
        return
    counted_back = [any(((leaf[row] < 0) & (leaf[row] >= -classes)).any() for leaf in whole) for row in rows]
    if not any(counted_back):
        return

    def with_negative(to: int) -> np.ndarray:
        """The losses with the negative labels replaced."""
        return losses(lambda leaf: np.where((leaf < 0) & (leaf >= -classes), to, leaf).astype(leaf.dtype))

    # Is -1 taken for the last class, as an index is, and -classes for the first? A loss that means something by a
    # negative label does not repeat itself class by class.
    first, last = with_negative(0), with_negative(classes - 1)
    taken = (with_negative(-classes) == first) & (with_negative(-1) == last) & (first != last) & counted_back
    if taken.any():
        row = rows[int(np.argmax(taken))]
        label = _outside(whole, row, classes)
        raise InputError(
            f"loss takes label {label} (in row {row}), {rule}, for class {label + classes}: leave such samples out, or "
            "give a loss that is 0 for them"
        )


def _narrow(leaf: Any) -> bool:
    """Whether integers are of a type in which arithmetic with them soon wraps around."""
    return np.issubdtype(leaf.dtype, np.unsignedinteger) or leaf.dtype.itemsize < 4


def _beyond(leaf: np.ndarray, classes: int | None) -> np.ndarray:
    """Places, in the flat array, of labels that are of no class; all where it is not known how many there are."""
    flat = leaf.ravel()
    return np.arange(len(flat)) if classes is None else np.flatnonzero((flat < 0) | (flat >= classes))


def _rows(whole: list[np.ndarray], classes: int | None, most: int) -> list[int]:
    """At most `most` rows with different labels: those outside the classes first, then the smallest and largest."""
    found: list[int] = []
    for leaf in whole:
        flat = leaf.ravel()
        for places in (_beyond(leaf, classes), [np.argmin(flat), np.argmax(flat)], np.arange(flat.size)):
            some = np.asarray(places, int)[:LOOKED_THROUGH]
            _, first = np.unique(flat[some], return_index=True)
            found += (some[first[:most]] * len(leaf) // flat.size).tolist()
    return list(dict.fromkeys(found))[:most]


def _made_up(leaf: Any, rows: int) -> np.ndarray:
    """Outputs that no usual loss is infinite at, and another for each class; zeros where they are no floats."""
    shape = (rows, *leaf.shape[1:])
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or len(shape) < 2:
        return np.full(shape, 0.5).astype(leaf.dtype)
    return np.broadcast_to(np.linspace(0.1, 1.0, shape[-1]), shape).astype(leaf.dtype)


def _whole(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.integer)


def _outside(whole: list[np.ndarray], row: int, classes: int | None) -> int:
    """A label of this row that is of no class, or else its smallest."""
    every = np.concatenate([np.atleast_1d(leaf[row]).ravel() for leaf in whole])
    outside = every[(every < 0) | (every >= (classes or np.inf))]
    return int(outside[0] if len(outside) else every.min())
