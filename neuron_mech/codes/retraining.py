"""Retraining what follows a site, from scratch, on zeros and ones in the place of its pre-activations (section 5.2).

What comes before the site is not run: its binarized pre-activations are cached as bits, and the compiler drops the
whole prefix. Re-initialisation, shuffling and dropout depend on the seed and the site alone, so that windows differ in
nothing but what they let through (common random numbers), and give the same numbers in any order, together or apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct, traverse_util
from flax.core import DenyList
from jaxtyping import Array, Float, Int, PyTree, UInt8

from neuron_mech import taps, training
from neuron_mech.codes import windowing
from neuron_mech.codes.sources import Source
from neuron_mech.codes.windowing import Window
from neuron_mech.config import Config, Derivative, random_stream
from neuron_mech.errors import RunError
from neuron_mech.precision import Product, rewritten, shifted, unfolded
from neuron_mech.taps import Site, SiteError, objectives
from neuron_mech.taps.objectives import margin
from neuron_mech.training import TrainState
from neuron_mech.training.datasets import Samples

Form = Literal["convolutions", "products", "patches"]
"""What convolutions are computed as. The numbers are the same, to float32's rounding.

convolutions: as convolutions; of several windows together, as one with a group of features for each window.
products: as a matrix product for each place of the kernel (`precision.shifted`); of several windows, as batches of it.
patches: as one matrix product of all places (`precision.unfolded`), which copies the map once for each place.
"""

_PRODUCTS: Mapping[Form, Product] = {"products": shifted, "patches": unfolded}

TESTED = 1000
"""Samples looked at at once when accuracy is had: of a window, or of all together where convolutions follow."""

_STATISTICS = DenyList(("params", "intermediates"))
"""Collections that a training step moves: what precedes the site moves its own, which are dropped."""


@dataclass(frozen=True)
class Cut:
    """A network cut at a site: what is retrained, and from where."""

    config: Config
    model: nn.Module
    site: Site
    below: frozenset[str]
    """Modules before the site: neither run nor retrained."""
    image: tuple[int, ...]
    """Shape of an input image, which the network still asks for though nothing depends on it."""
    convolutional: bool
    """Whether convolutions follow the site."""
    replaces: Derivative
    """What zeros and ones take the place of: the pre-activation, so that the activation function applies to them, or
    the activation itself. One and the same for ReLU; a sigmoid makes 0.5 and 0.73 of them."""
    form: Form = "convolutions"
    """What the convolutions that follow are computed as."""

    @property
    def stepwise(self) -> bool:
        """Whether an epoch is a loop on the host."""
        return training.stepwise(self.convolutional and self.form == "convolutions")


class Binarized(struct.PyTreeNode):
    """Samples seen through one window at a site: bits, and labels."""

    bits: UInt8[Array, "*windows_and_samples bytes"]
    labels: Int[Array, "*samples"]


def cut(
    config: Config,
    model: nn.Module,
    variables: Mapping[str, Any],
    sample: Samples,
    site: Site,
    replaces: Derivative = "pre_activation",
) -> Cut:
    """Cut `model` at a site. `sample` holds one sample.

    Raises SiteError where a path from the image to the output goes round the site, as inside a block with a skip
    connection: what follows it does not follow from its zeros and ones alone.
    """
    found = taps.below(model, variables, sample.inputs, site.name)
    after = [at for name, at in taps.sites(model, variables, sample.inputs).items() if name not in found]
    made = Cut(config, model, site, found, tuple(sample.inputs.shape[1:]), training.convolutional(after), replaces)
    # Whatever is not a number before the site would come through on any way round it.
    bits = windowing.pack(jnp.zeros((1, *site.shape), bool))
    if not np.isfinite(jax.jit(lambda s: _forward(made, s, s.params, bits, before=np.nan))(initial(made))).all():
        raise SiteError(
            f"site {site.name!r} cannot be cut at: a path from the image to the output goes round it; name a site that "
            "all paths run through"
        )
    return made


def initial(cut: Cut) -> TrainState:
    """What follows the site, re-initialised, with nothing of what precedes it."""
    seed, name = cut.config.train.seed, cut.site.name
    variables = cut.model.init(random_stream(seed, f"reinitialisation above {name}"), jnp.zeros((1, *cut.image)))
    params = _above(cut, variables["params"])
    statistics = {k: _above(cut, v) for k, v in variables.items() if k not in ("params", "intermediates")}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        statistics={k: v for k, v in statistics.items() if v},
        # What it carries does not depend on the number of samples.
        opt_state=training.optimizer(cut.config, 1).init(params),
        key=random_stream(seed, f"dropout above {name}"),
    )


def _above(cut: Cut, tree: PyTree) -> PyTree:
    """The part of a variable collection that belongs to modules after the site."""
    flat = traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict({k: v for k, v in flat.items() if "/".join(k[:-1]) not in cut.below})


def _whole(cut: Cut, above: Mapping[str, PyTree], before: float) -> dict[str, PyTree]:
    """All variables of the network from those after the site, with one number in the place of all others.

    Flax asks for them, and the compiler drops them.
    """
    shapes = jax.eval_shape(lambda: cut.model.init(jax.random.key(0), jnp.zeros((1, *cut.image))))
    variables = {}
    for name in shapes.keys() - {"intermediates"}:
        flat = traverse_util.flatten_dict(shapes[name])
        blank = {k: jnp.full(v.shape, before, v.dtype) for k, v in flat.items() if "/".join(k[:-1]) in cut.below}
        variables[name] = traverse_util.unflatten_dict(blank | traverse_util.flatten_dict(above.get(name, {})))
    return variables


def _forward(cut: Cut, state: TrainState, params: PyTree, bits: jax.Array, before: float = 0.0, **kwargs: Any) -> Any:
    """The network's output with the site's pre-activations, or activations, replaced by zeros and ones.

    `before` stands in for all that precedes the site: nothing depends on it.
    """
    values = windowing.unpack(bits, cut.site.shape)
    edit = {cut.site.name: lambda _: values}
    run = taps.edited(cut.model, pre=edit) if cut.replaces == "pre_activation" else taps.edited(cut.model, post=edit)
    variables = _whole(cut, {"params": params, **state.statistics}, before)
    images = jnp.full((len(bits), *cut.image), before)
    if cut.form == "convolutions":
        return run(variables, images, **kwargs)
    # Before it is differentiated and mapped over windows, so that the derivatives are batched products too.
    return rewritten(lambda *args: run(*args, **kwargs), _PRODUCTS[cut.form])(variables, images)


def step(
    cut: Cut, state: TrainState, train: Binarized, ids: Int[Array, " batch"]
) -> tuple[TrainState, Float[Array, ""]]:
    """One step of retraining: (state, loss in nats). Pure; jit it with `cut` bound."""
    bits, labels = train.bits[ids], train.labels[ids]

    def mean_loss(params: PyTree, _: Mapping) -> tuple[jax.Array, PyTree]:
        rngs = {"dropout": jax.random.fold_in(state.key, state.step)}
        logits, statistics = _forward(cut, state, params, bits, train=True, rngs=rngs, mutable=_STATISTICS)
        statistics = {k: _above(cut, statistics[k]) for k in state.statistics}
        return nn.softplus(margin(logits, labels)).mean(), statistics

    optimizer = training.optimizer(cut.config, train.labels.shape[0])
    state, loss, _ = training.descend(optimizer, state, mean_loss, {})
    return state, loss


def epoch(
    cut: Cut, state: TrainState, train: Binarized, ids: Int[Array, "steps batch"], rest: Int[Array, " rest"] | None
) -> tuple[TrainState, Float[Array, ""]]:
    """One epoch of retraining, the model's own schedule: (state, mean loss in nats). Pure; jit it with `cut` bound."""
    state, losses = jax.lax.scan(lambda state, ids: step(cut, state, train, ids), state, ids)
    if rest is not None:
        state, last = step(cut, state, train, rest)
        losses = jnp.append(losses, last)
    return state, losses.mean()


def accuracy(cut: Cut, state: TrainState, test: Binarized, chunk: int = TESTED) -> Float[Array, ""]:
    """Share of test samples that the retrained network gets right."""

    def right(sample: Binarized) -> jax.Array:
        return objectives.right(_forward(cut, state, state.params, sample.bits[None])[0], sample.labels)

    return jax.lax.map(right, test, batch_size=chunk).mean()


class Retraining:
    """The jitted programs of one cut: compiled once, used for every group of windows.

    Windows of a group are trained together, mapped over in one program.
    """

    def __init__(self, cut: Cut):
        self.cut = cut

        def one_epoch(state: TrainState, bits: Array, labels: Array, ids: Array, rest: Array | None):
            return epoch(cut, state, Binarized(bits, labels), ids, rest)

        def one_step(state: TrainState, bits: Array, labels: Array, ids: Array):
            return step(cut, state, Binarized(bits, labels), ids)

        def accuracies(state: TrainState, bits: Array, labels: Array):
            # Maps are large: all windows' maps together take no more than those of one window apart.
            chunk = max(1, TESTED // len(bits)) if cut.convolutional else TESTED
            return jax.vmap(lambda state, bits: accuracy(cut, state, Binarized(bits, labels), chunk))(state, bits)

        self._whole_epoch = jax.jit(jax.vmap(one_epoch, in_axes=(0, 0, None, None, None)), donate_argnums=0)
        self._step = jax.jit(jax.vmap(one_step, in_axes=(0, 0, None, None)), donate_argnums=0)
        self._accuracy = jax.jit(accuracies)

    def order(self, samples: int, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(full batches, the rest) of an epoch."""
        config = self.cut.config
        key = random_stream(config.train.seed, f"shuffling above {self.cut.site.name}")
        ids = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), samples), dtype=np.int32)
        whole = samples // config.train.batch_size * config.train.batch_size
        return ids[:whole].reshape(-1, config.train.batch_size), ids[whole:] if whole < samples else None

    def start(self, windows: int) -> TrainState:
        """So many windows' states before the first step, all the same."""
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * windows), initial(self.cut))

    def epoch(
        self, state: TrainState, train: Binarized, ids: np.ndarray, rest: np.ndarray | None
    ) -> tuple[TrainState, Float[Array, " windows"]]:
        """One epoch in this `order`: (state, mean losses in nats). The state that is handed in is used up."""
        if not self.cut.stepwise:
            return self._whole_epoch(state, train.bits, train.labels, ids, rest)
        losses = []
        for batch in ids if rest is None else (*ids, rest):
            state, loss = self._step(state, train.bits, train.labels, batch)
            losses.append(loss)
        return state, jnp.stack(losses).mean(0)

    def __call__(
        self, train: Binarized, test: Binarized, tick: Callable[[], Any] = lambda: None
    ) -> Float[np.ndarray, " windows"]:
        """Test accuracy after retraining through each window; bits have shape (windows, samples, bytes).

        `tick` is called after every epoch. Raises RunError for a loss that is not finite.
        """
        state = self.start(train.bits.shape[0])
        for index in range(self.cut.config.train.epochs):
            state, loss = self.epoch(state, train, *self.order(len(train.labels), index))
            if not np.isfinite(loss).all():
                raise RunError(
                    f"retraining above {self.cut.site.name}: the loss is {np.asarray(loss).max()} in epoch {index + 1} "
                    f"with train.learning_rate {self.cut.config.train.learning_rate}: lower it"
                )
            tick()
        return np.asarray(self._accuracy(state, test.bits, test.labels))


def binarizer(source: Source, site: str, chunk: int = 1000) -> Callable[[Window, Samples], Binarized]:
    """A function of (windows with a leading axis, samples): the samples as every window sees them at a source's site.

    It holds its compiled program: keep it for as long as the source is looked at.
    """

    @jax.jit
    def look(source: Source, windows: Window, part: Samples) -> jax.Array:
        values = source(part.inputs)[site]
        return jax.vmap(lambda window: windowing.pack(window(values)))(windows)

    def binarized(windows: Window, samples: Samples) -> Binarized:
        parts = [look(source, windows, part) for part in samples.chunks(chunk)]
        return Binarized(jnp.concatenate(parts, axis=1), samples.labels)

    return binarized
