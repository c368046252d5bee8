"""Reading, differentiating and replacing values at sites, which are given by name, glob or regular expression."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from neuron_mech import taps
from neuron_mech.config import Derivative
from neuron_mech.errors import InputError
from neuron_mech.precision import Precision
from neuron_mech.recording.checks import check_apply, check_keywords, check_loss
from neuron_mech.recording.labelling import check_labels_fit
from neuron_mech.taps import PerSampleLoss
from neuron_mech.taps.naming import Names, in_reach, selected
from neuron_mech.taps.objectives import margin
from neuron_mech.taps.running import Edit


def read(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    names: Names = "all",
    where: Derivative = "pre_activation",
    apply: Mapping[str, Any] = {},
) -> tuple[Any, dict[str, Array]]:
    """One forward pass, and the values at sites in it.

    Traced anew and run operation by operation at each call: call it inside of `jax.jit` where it is called often.

    Arguments:
        model: a Linen module; of an NNX model, what `from_nnx` gives.
        variables: what `model.apply` takes: `{"params": ...}` and all.
        inputs: the model's one argument, an array or a tree with the batch first, or `Inputs` for several; of one
            sample or more.
        names: sites, by name, glob or regular expression; "all" is every `Neurons`, or else every stock layer. See
            `sites` for what there is. Of an empty list, no values are read.
        where: "pre_activation", or "activation" for the output of an activation function. The attention pattern, for
            example, is the activation at `attention:softmax`.
        apply: further arguments of `model.apply`, such as `{"train": False}`.

    Returns:
        (the model's outputs, {site: its values}), values of shape (batch, positions ..., neurons) in the model's own
            type, NaN and infinite ones as they are. With `mutable` in `apply`, the updates are dropped.

    Raises:
        SiteError: for a name without a site, and for an activation where there is none.
        InputError: where the model cannot be called with these arguments.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> logits, values = neuron_mech.read(model, variables, x, "layers_0")
    >>> logits.shape, values["layers_0"].shape
    ((5, 3), (5, 4))
    """
    given = taps.bound(apply)
    chosen = tuple(selected(model, variables, inputs, names, **given))
    return taps.read(model, variables, inputs, chosen, where, **given)


def gradients(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    names: Names = "all",
    loss: PerSampleLoss = margin,
    derivative: Derivative | None = None,
    precision: Precision = "exact",
    apply: Mapping[str, Any] = {},
) -> dict[str, Float[Array, " batch *values"]]:
    """The derivative of each sample's own loss with respect to the neurons at sites.

    Samples are differentiated as batches of one, so that they cannot mix. Compiled once for each model, loss and names:
    give the same function as `loss` again, not a new lambda at each call.

    Arguments:
        model: a Linen module; of an NNX model, what `from_nnx` gives.
        variables: what `model.apply` takes: `{"params": ...}` and all.
        inputs: the model's one argument, an array or a tree with the batch first, or `Inputs` for several.
        labels: what the loss takes beside the outputs, an array or a tree with a row for each sample.
        names: sites, by name, glob or regular expression; see `sites`.
        loss: (outputs, labels) -> one value a sample.
        derivative: with respect to the "activation" or the "pre_activation"; by default the activation where every
            site has one, as for a recorder.
        precision: "exact", products to float32's precision on any device, or "fast", the device's default.
        apply: further arguments of `model.apply`, the same for all samples. Every sample gets its own keys from `rngs`.

    Returns:
        {site: derivatives of shape (batch, positions ..., neurons)}, in the loss's unit (nats) over the value's; 0
            where the loss does not depend on the neuron, as below a ReLU that is off. NaN and infinite as they are.

    Raises:
        SiteError: for a name without a site, and for the derivative by an activation where there is none.
        InputError: for a loss that is not one value a sample or mixes samples, and for invalid labels.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> found = neuron_mech.gradients(model, variables, x, labels, "layers_*")
    >>> found["layers_0"].shape
    (5, 4)
    >>> found["layers_2"][:3].diagonal().tolist()  # a margin falls by one nat for each of its right class's logit
    [-1.0, -1.0, -1.0]
    """
    check_apply(apply, taps.batch_size((inputs, labels)))
    fixed = tuple(sorted((name, value) for name, value in apply.items() if not _is_data(value)))
    data = {name: value for name, value in apply.items() if _is_data(value)}
    key: tuple[Any, ...] = (
        model,
        tuple(names) if isinstance(names, list) else names,
        loss,
        derivative,
        precision,
        fixed,
    )
    try:
        compiled = _compiled(*key)
    except TypeError:  # something of it has no hash, and is compiled anew
        compiled = _compiled.__wrapped__(*key)
    check_labels_fit(loss, labels, compiled.outputs(variables, inputs, labels, data))
    found = compiled.run(variables, inputs, labels, data)
    return {site: found[site] for site in compiled.order}


def signs(*args: Any, **kwargs: Any) -> dict[str, Int[Array, " batch *values"]]:
    """The sign of each sample's own derivative: whether its loss rises (1) or falls (-1) as a neuron's value rises.

    Takes the arguments of `gradients`.

    Returns:
        {site: int8 of shape (batch, positions ..., neurons)}; 0 where the derivative is exactly zero.

    Raises:
        InputError: where a derivative is NaN or infinite, since it has no sign (inside of `jax.jit`, where values are
            not known, this is not checked), and where `gradients` raises it.
        TypeError: for a keyword that `gradients` does not have.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> neuron_mech.signs(model, variables, x, labels, "layers_2")["layers_2"].tolist()  # -1 for the right class
    [[-1, 1, 1], [1, -1, 1], [1, 1, -1], [-1, 1, 1], [1, -1, 1]]
    """
    check_keywords("signs", gradients, kwargs)
    found = gradients(*args, **kwargs)
    each = _signs(found)
    for site, (_, wrong) in each.items():
        # Inside a compiled function its value is not known.
        if not isinstance(wrong, jax.core.Tracer) and int(wrong):
            raise InputError(
                f"{int(wrong):,} of {found[site].size:,} derivatives at {site!r} are not finite: look at the inputs "
                "and at the loss; `gradients` gives them as they are"
            )
    return {site: each[site][0] for site in found}


@jax.jit
def _signs(found: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    """{site: (signs, number of derivatives that are not finite)}."""
    return {site: (jnp.sign(of).astype(jnp.int8), jnp.sum(~jnp.isfinite(of))) for site, of in found.items()}


def replace(model: nn.Module, edits: Mapping[str, Edit], where: Derivative = "pre_activation") -> Callable[..., Any]:
    """`model.apply` with the values at some sites replaced: the network runs on with the new ones.

    Arguments:
        model: a Linen module; of an NNX model, what `from_nnx` gives.
        edits: {name or glob of sites: a function of the whole batch's array, (batch, positions ..., neurons), that
            gives the new values in the same shape and type}. Without edits, the outputs are the model's own.
        where: whether they replace the "pre_activation" or the "activation".

    Returns:
        A function of the arguments of `model.apply`: the variables, and the inputs as they are or as `Inputs`. Jit it
            where it is called often. It raises SiteError for a name without a site, for a site that two names fit,
            for an activation where there is none, and for an edit that changes shape or type.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> silenced = neuron_mech.replace(model, {"layers_0": jnp.zeros_like})
    >>> bool((silenced(variables, x) == variables["params"]["layers_2"]["bias"]).all())  # no more comes through
    True
    """

    def run(variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        positional, words = taps.arguments(args, kwargs)
        inputs, words = taps.Inputs(*positional), taps.bound(words)
        found: dict[str, Edit] = {}
        for names, edit in edits.items():
            for site in selected(model, variables, inputs, names, **words):
                if site in found:
                    raise taps.SiteError(f"site {site!r} has two edits, the second by {names!r}: name each site once")
                found[site] = edit
        if where == "activation":
            return taps.edited(model, post=found)(variables, inputs, **words)
        return taps.edited(model, pre=found)(variables, inputs, **words)

    return run


class _Compiled:
    """The derivatives of one model's loss at some sites, compiled; checked once for shapes."""

    def __init__(self, *key: Any):
        self.model, self.names, self.loss, self.derivative, self.precision, fixed = key
        self.fixed = dict(fixed)
        self.checked: dict[Any, PyTree] = {}
        self.order: tuple[str, ...] = ()
        """Of the sites, in which `jit` does not return them."""
        self.run = jax.jit(self._run)

    def outputs(self, variables: PyTree, inputs: PyTree, labels: PyTree, data: Mapping[str, Any]) -> PyTree:
        """The shapes of the outputs, once the loss is known to be one of each sample; see `check_loss`."""
        given = (variables, inputs, labels)
        shapes = jax.tree.map(lambda leaf: (jnp.shape(leaf), str(jnp.result_type(leaf))), given)
        leaves, tree = jax.tree.flatten(shapes)
        key = (tuple(leaves), tree)
        if key not in self.checked:
            self.checked[key] = check_loss(
                self.model, variables, inputs, labels, self.loss, **taps.bound({**self.fixed, **data})
            )
        return self.checked[key]

    def _run(self, variables: PyTree, inputs: PyTree, labels: PyTree, data: Mapping[str, Any]) -> dict[str, Array]:
        apply = taps.bound({**self.fixed, **data})
        sites = selected(self.model, variables, inputs, self.names, **apply)
        self.order = tuple(sites)
        how = ({"loss": self.loss}, self.derivative or in_reach(sites), self.precision)
        return taps.per_sample_gradients(self.model, variables, inputs, labels, sites, *how, **apply)["loss"]


_compiled = lru_cache(maxsize=32)(_Compiled)


def _is_data(value: Any) -> bool:
    """Whether an argument holds arrays."""
    return any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(value))
