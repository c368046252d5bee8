"""Derivatives of per-sample losses at sites: those with respect to zeros that are added there."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from neuron_mech import precision as precise
from neuron_mech.config import Derivative
from neuron_mech.errors import InputError
from neuron_mech.precision import Precision, Product
from neuron_mech.taps import random_keys
from neuron_mech.taps.edits import outputs, tasks
from neuron_mech.taps.finding import Site, SiteError, batch_size
from neuron_mech.taps.programs import Place, traced
from neuron_mech.taps.running import run

PerSampleLoss = Callable[[Any, Any], jax.Array]
"""(the model's outputs, the labels) -> one value a sample."""


def zeros(sites: Mapping[str, Site], batch: int) -> dict[str, jax.Array]:
    """Perturbations for `activation_gradients`: zeros of each site's shape for a batch of this size."""
    return {name: jnp.zeros((batch, *site.shape), site.dtype) for name, site in sites.items()}


def perturbed(
    model: nn.Module, perturbations: Mapping[str, jax.Array], derivative: Derivative = "activation"
) -> Callable[..., Any]:
    """`model.apply` with `perturbations` added at their sites, to the activation or the pre-activation.

    The derivative of a summed per-sample loss with respect to a perturbation of zeros is every sample's own derivative,
    in one backward pass, as long as samples do not mix (see `sample_mixing`).

    Arguments:
        model: a Linen module.
        perturbations: {site: an array of its values' shape for this batch, (batch, positions ..., neurons), and of
            their type}, as `zeros` makes them.
        derivative: whether they are added to the "activation" or to the "pre_activation".

    Returns:
        A function of the arguments of `model.apply`. While it is traced it raises SiteError for an unknown site, for an
            activation where there is none, and for a perturbation of another shape or type: one of batch 1 would
            broadcast, and its derivative would be a sum over samples.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> from neuron_mech import taps
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> zeros = {"layers_2": jnp.zeros((5, 3))}
    >>> loss = lambda zeros: taps.perturbed(model, zeros, "pre_activation")(variables, x)[:, 0].sum()
    >>> jax.jit(jax.grad(loss))(zeros)["layers_2"][0].tolist()  # of the first output, which is this site's first neuron
    [1.0, 0.0, 0.0]
    """

    def apply(variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        program = traced(model, variables, *args, **kwargs)
        found = tasks(program, derivative, perturbations, added=perturbations)
        for task in found:
            for name in task.names:
                _check(name, perturbations.get(name), task.place)
        return run(program, found)[0]

    return apply


def activation_gradients(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    perturbations: Mapping[str, jax.Array],
    objectives: Mapping[str, PerSampleLoss],
    derivative: Derivative = "activation",
    precision: Precision | Product = "exact",
    **kwargs: Any,
) -> dict[str, dict[str, jax.Array]]:
    """Every sample's own derivatives at sites, from one forward pass, and one backward pass for each objective.

    It is that of the *sum* over the batch, so samples must not mix; `per_sample_gradients` holds them apart. Pure; jit
    it.

    Arguments:
        model: a Linen module.
        variables: what `model.apply` takes.
        inputs: the model's one argument, an array or a tree with the batch first, or `Inputs`.
        labels: what objectives take beside the outputs, with the batch first.
        perturbations: {site: zeros for this batch}, as `zeros` makes them; they say at which sites.
        objectives: {name: (outputs, labels) -> one value a sample}.
        derivative: with respect to the "activation" or the "pre_activation".
        precision: "exact", products to float32's precision on any device; "fast", the device's default; or a function
            that computes each product.
        **kwargs: go to `model.apply`.

    Returns:
        {objective: {site: d objective / d value, of shape (batch, positions ..., neurons)}}, in the objective's unit
            over the value's.

    Raises:
        SiteError: where `perturbed` does.
        InputError: where an objective is not one value a sample.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> from neuron_mech import taps
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> from neuron_mech.taps.objectives import margin
    >>> found = jax.jit(
    ...     lambda zeros: taps.activation_gradients(model, variables, x, labels, zeros, {"margin": margin})
    ... )({":relu": jnp.zeros((5, 4))})
    >>> found["margin"][":relu"].shape
    (5, 4)
    """
    run = partial(_gradients, model, objectives, derivative, kwargs)
    return precise.at(precision, run)(variables, inputs, labels, dict(perturbations))


def _gradients(
    model: nn.Module,
    objectives: Mapping[str, PerSampleLoss],
    derivative: Derivative,
    kwargs: Mapping[str, Any],
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    perturbations: dict[str, jax.Array],
) -> dict[str, dict[str, jax.Array]]:
    """`activation_gradients` in JAX's current precision."""

    def forward(perturbations: Mapping[str, jax.Array]) -> Any:
        out = perturbed(model, perturbations, derivative)(variables, inputs, **kwargs)
        return outputs(out, kwargs)

    def summed(objective: PerSampleLoss, out: Any) -> jax.Array:
        each = objective(out, labels)
        if each.shape != (size := batch_size((inputs, labels)),):
            raise InputError(
                f"loss gives {list(each.shape)} where it has outputs and labels of {size} sample{'s' * (size != 1)}: "
                "what it or the model takes from elsewhere with a row for each sample belongs to the labels or inputs"
            )
        return each.sum()

    out, backward = jax.vjp(forward, perturbations)
    return {name: backward(jax.grad(partial(summed, f))(out))[0] for name, f in objectives.items()}


def per_sample_gradients(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    sites: Mapping[str, Site],
    objectives: Mapping[str, PerSampleLoss],
    derivative: Derivative = "activation",
    precision: Precision | Product = "exact",
    ids: Int[Array | np.ndarray, " batch"] | None = None,
    **kwargs: Any,
) -> dict[str, dict[str, jax.Array]]:
    """`activation_gradients` by `vmap` over batches of one: samples cannot mix, whatever the model does.

    XLA turns the mapped products back into products of the whole batch; measured, it takes as long as one backward
    pass. Pure; jit it.

    Arguments:
        model: a Linen module.
        variables: what `model.apply` takes.
        inputs: the model's one argument, an array or a tree with the batch first, or `Inputs`.
        labels: what objectives take beside the outputs, with the batch first.
        sites: {name: Site}, as `sites` or `select` give them.
        objectives: {name: (outputs, labels) -> one value a sample}; each sees batches of one.
        derivative: with respect to the "activation" or the "pre_activation".
        precision: as in `activation_gradients`.
        ids: numbers of the samples, by default their rows in the batch. Random keys of the model, in `rngs` or among
            its variables, are folded with them, so that every sample has its own noise.
        **kwargs: go to `model.apply`.

    Returns:
        {objective: {site: d objective / d value, of shape (batch, positions ..., neurons)}}.

    Raises:
        SiteError: where a site is unknown, has no activation, or changes its shape with a batch of one.
        InputError: where an objective is not one value a sample.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> from neuron_mech import taps
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> from neuron_mech.taps.objectives import margin
    >>> sites = taps.select(taps.sites(model, variables, x), ["layers_2"])
    >>> how = (sites, {"margin": margin}, "pre_activation")
    >>> found = jax.jit(lambda variables: taps.per_sample_gradients(model, variables, x, labels, *how))(variables)
    >>> found["margin"]["layers_2"][:3].diagonal().tolist()  # by the right class's logit
    [-1.0, -1.0, -1.0]
    """
    rngs = {name: kwargs.pop(name) for name in ("rngs",) if name in kwargs}
    noisy = random_keys.has_keys(variables, rngs)
    size = batch_size((inputs, labels))

    def one(variables: PyTree, sample: PyTree, label: PyTree, number: Array) -> dict[str, dict[str, jax.Array]]:
        sample, label = jax.tree.map(lambda leaf: leaf[None], (sample, label))
        own, keys = random_keys.folded(variables, rngs, number) if noisy else (variables, rngs)
        gradients = _gradients(model, objectives, derivative, {**kwargs, **keys}, own, sample, label, zeros(sites, 1))
        return jax.tree.map(lambda g: g[0], gradients)

    numbers = jnp.arange(size) if ids is None else jnp.asarray(ids)
    return precise.at(precision, jax.vmap(one, in_axes=(None, 0, 0, 0)))(variables, inputs, labels, numbers)


def _check(site: str, perturbation: jax.Array | None, place: Place) -> None:
    """Raise SiteError where a perturbation does not have the shape and type of the site's values."""
    if perturbation is None:
        return
    if perturbation.shape != place.value:
        raise SiteError(
            f"the perturbation at site {site!r} has shape {list(perturbation.shape)}, its values "
            f"{list(place.value)}: "
            + (
                "broadcasting would sum gradients of several samples; build it with taps.zeros for this batch"
                if perturbation.shape[1:] == place.value[1:]
                else "the model does something else with a batch of this size, such as squeeze() with a batch of one: "
                "squeeze the axis that is meant, or record batches as they are with mixing='batch'"
            )
        )
    if perturbation.dtype != place.dtype:
        raise SiteError(
            f"the perturbation at site {site!r} is {perturbation.dtype}, its values {place.dtype}: adding it would "
            "change their type"
        )
