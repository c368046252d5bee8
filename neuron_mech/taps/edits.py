"""Reading and replacing values at sites, and finding the modules that a site depends on."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import PyTree

from neuron_mech.taps.finding import SiteError, located, path_of, trouble
from neuron_mech.taps.inputs import arguments
from neuron_mech.taps.neurons import Neurons
from neuron_mech.taps.programs import Program, traced
from neuron_mech.taps.running import Edit, Task, run


def edited(model: nn.Module, pre: Mapping[str, Edit] = {}, post: Mapping[str, Edit] = {}) -> Callable[..., Any]:
    """`model.apply` with edits of the values at named sites, after which the network runs on.

    Arguments:
        model: a Linen module; anything else is a TypeError.
        pre: {site: edit of its pre-activations}. An edit is a function of the whole batch's array, (batch, positions
            ..., neurons), that keeps its shape and type. Names are sites' own, no patterns.
        post: {site: edit of its activations}, at `Neurons` and at activation functions.

    Returns:
        A function of the arguments of `model.apply`, to be jitted by who calls it often. While it is traced it raises
            SiteError for an unknown site, for an edit that changes shape or type, and for `post` at a site without
            activation. Under `jit`, layers whose values an edit throws away are not computed.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> from neuron_mech import taps
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> off = taps.edited(model, pre={"layers_0": lambda values: values.at[:, 0].set(-1.0)})  # below the ReLU
    >>> off(variables, x).shape
    (5, 3)
    """
    _check_module(model, "edited")
    checked = {
        "pre_activation": {name: _keeping(edit, name) for name, edit in pre.items()},
        "activation": {name: _keeping(edit, name) for name, edit in post.items()},
    }

    def apply(variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        program = traced(model, variables, *args, **kwargs)
        found = [task for role, edits in checked.items() for task in tasks(program, role, edits, edits=edits)]
        return run(program, found)[0]

    return apply


def tasks(program: Program, role: str, names: Mapping[str, Any] | tuple[str, ...], **what: Any) -> list[Task]:
    """The tasks (edits, additions, reading) at these sites, one for each place in the program.

    Raises SiteError for an unknown site, and for one that cannot be reached.
    """
    sites = located(program)
    places = {}
    for name in names:
        if (name, role) not in sites:
            raise SiteError(_missing(name, role, sites.names))
        place = sites[name, role][0]
        if wrong := trouble(name, place):
            alone = "; or the model drops the axis of a batch of one, as squeeze() does: say which axis it squeezes"
            raise SiteError(wrong + alone * (program.size == 1 and place.batch is None))
        places[place.address] = place
    found = []
    for place in places.values():
        uses = [(which, name) for (name, at), (of, which) in sites.items() if of is place and at == role]
        found.append(Task(place, tuple(name for _, name in sorted(uses)), **what))
    return found


def read(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    names: tuple[str, ...],
    where: str = "pre_activation",
    **kwargs: Any,
) -> tuple[Any, dict[str, jax.Array]]:
    """One forward pass, and the values at sites in it, before or after the activation function.

    Arguments:
        model: a Linen module; anything else is a TypeError.
        variables: what `model.apply` takes.
        inputs: the model's one argument, an array or a tree with the batch first, of one sample or more, or `Inputs`.
        names: sites by their own names, no patterns; with none, only the outputs are of use.
        where: "pre_activation" or "activation".
        **kwargs: go to `model.apply`. With `mutable`, the updates are dropped.

    Returns:
        (the model's outputs, {site: values of shape (batch, positions ..., neurons)}), in the order of `names`.

    Raises:
        SiteError: for an unknown site, for the bare name of a module that is used more than once, and for an activation
            where there is none.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> from neuron_mech import taps
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> logits, values = taps.read(model, variables, x, (":relu",), where="activation")
    >>> values[":relu"].shape, bool((values[":relu"] >= 0).all())
    ((5, 4), True)
    """
    _check_module(model, "read")
    program = traced(model, variables, inputs, **kwargs)
    out, values = run(program, tasks(program, where, names, read=True))
    return outputs(out, kwargs), {name: values[name] for name in names}


def outputs(out: Any, kwargs: Mapping[str, Any]) -> Any:
    """The model's outputs in the result of `apply` with these arguments; with `mutable`, the updates are dropped."""
    return out if kwargs.get("mutable", False) is False else out[0]


def below(model: nn.Module, variables: Mapping[str, Any], inputs: PyTree, site: str, **kwargs: Any) -> frozenset[str]:
    """Paths of the modules that are called before the site: those that its pre-activation can depend on.

    All others come after the site. Raises SiteError where the site is not reached, or its module is used several times.
    """
    if path_of(site) != site:
        raise SiteError(f"site {site!r} is one use of a module that follows itself: cut at a module used once")
    called: list[str] = []
    reached = False

    def notice(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        nonlocal reached
        path = "/".join(context.module.path)
        # A stock layer computes the pre-activation, so it lies below its own site; Neurons only receives it.
        reached |= path == site and isinstance(context.module, Neurons)
        if not reached and path:
            called.append(path)
        out = call(*args, **kwargs)
        reached |= path == site
        return out

    def run(variables: Mapping[str, Any], inputs: PyTree) -> Any:
        with nn.intercept_methods(notice):
            args, words = arguments((inputs,), kwargs)
            return model.apply(variables, *args, **words)

    jax.eval_shape(run, dict(variables), inputs)
    if not reached:
        raise SiteError(f"{site!r} is no site, or is not reached")
    return frozenset(called)


def _check_module(model: Any, what: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{what} needs the flax.linen Module itself, not {type(model).__name__}: edits cannot reach "
            "into a function that may have been jitted before"
        )


def _missing(name: str, role: str, there: list[str]) -> str:
    """The error message for a site that does not exist."""
    if name in there and role == "activation":
        return (
            f"site {name!r} is no activation function: only its pre-activation can be reached; ask for the "
            "pre_activation, or name the function that follows, such as ':relu', or Neurons"
        )
    if several := [site for site in there if path_of(site) == name]:
        return (
            f"site {name!r} is used {len(several)} times: name a use, {several[0]!r} to {several[-1]!r}, or all of "
            f"them, '{name}@*'"
        )
    modules = ", ".join(site for site in there if ":" not in site)
    return f"{name!r}: no such site, or one out of reach; there are {modules or 'none'}"


def _keeping(edit: Edit, site: str) -> Edit:
    """The edit, with a check that it keeps shape and dtype."""

    def apply(value: jax.Array) -> jax.Array:
        new = edit(value)
        if new.shape != value.shape or new.dtype != value.dtype:
            raise SiteError(
                f"the edit at site {site!r} turns {value.dtype}{list(value.shape)} into {new.dtype}{list(new.shape)}: "
                "it must keep shape and dtype"
            )
        return new

    return apply
