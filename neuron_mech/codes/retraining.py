"""Retraining all layers after a site, from scratch, on zeros and ones instead of its pre-activations (section 5.2).

The layers before the site do not run: its binarized pre-activations are cached as bits, and the compiler drops the
layers before. Re-initialisation, shuffling and dropout depend only on the seed and the site (common random numbers), so
that windows differ only by their zeros and ones, and give the same results in any order, together or apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import DenyList
from jaxtyping import Array, Float, Int, PyTree

from neuron_mech import taps, training
from neuron_mech.codes import windowing
from neuron_mech.codes.windowing import Binarized
from neuron_mech.config import Config, Derivative, random_stream
from neuron_mech.errors import RunError
from neuron_mech.precision import Product, rewritten, shifted, unfolded
from neuron_mech.taps import Site, SiteError, objectives
from neuron_mech.taps.objectives import margin
from neuron_mech.training import TrainState
from neuron_mech.training.datasets import Samples

Form = Literal["convolutions", "products", "patches"]
"""How convolutions are computed. The results are the same up to rounding in float32.

convolutions: as convolutions; of several windows together, as one with a group of features for each window.
products: as a matrix product for each place of the kernel (`precision.shifted`); of several windows, as batches of it.
patches: as one matrix product of all places (`precision.unfolded`), which copies the map once for each place.
"""

_PRODUCTS: Mapping[Form, Product] = {"products": shifted, "patches": unfolded}

TESTED = 1000
"""Samples evaluated at a time: of each window, or of all windows together where convolutions follow."""

_STATISTICS = DenyList(("params", "intermediates"))
"""The collections that a training step changes; those of layers before the site are dropped afterwards."""


@dataclass(frozen=True)
class Cut:
    """A network cut at a site: the layers after it are retrained."""

    config: Config
    model: nn.Module
    site: Site
    below: frozenset[str]
    """Modules before the site, which are neither run nor retrained."""
    image: tuple[int, ...]
    """Shape of an input image, which the network needs although its values do not matter."""
    convolutional: bool
    """Whether convolutions follow the site."""
    replaces: Derivative
    """Whether zeros and ones replace the pre-activations, so that the activation function applies to them, or the
    activations. For ReLU it is the same; a sigmoid turns 0 and 1 into 0.5 and 0.73."""
    form: Form = "convolutions"
    """How the convolutions after the site are computed."""

    @property
    def stepwise(self) -> bool:
        """Whether an epoch is a loop on the host (`training.stepwise`)."""
        return training.stepwise(self.convolutional and self.form == "convolutions")


def cut(
    config: Config,
    model: nn.Module,
    variables: Mapping[str, Any],
    sample: Samples,
    site: Site,
    replaces: Derivative = "pre_activation",
) -> Cut:
    """Cut `model` at a site, so that `Retraining` can train what follows it on zeros and ones in the site's place.

    Arguments:
        config: of its sections, `train` is what is retrained by: step size, epochs, batch size and seed.
        model: the network, retrained in its training mode from new parameters.
        variables: its variables, of which only shapes count.
        sample: one sample, such as `samples.blank`.
        site: one of `taps.sites`, in a module that is used once.
        replaces: whether zeros and ones take the place of pre-activations or of activations.

    Raises SiteError where a path from the image to the output bypasses the site, as inside a block with a skip
    connection: the output would not depend on the zeros and ones alone.

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech import config, taps, training
    >>> from neuron_mech.codes import retraining
    >>> from neuron_mech.training import datasets, models
    >>> samples = datasets.Samples(jnp.ones((20, 4, 4, 1), jnp.uint8), jnp.arange(20) % 10, largest=1)
    >>> model = models.MLP(neurons=8)
    >>> variables = training.begun(model, jax.random.key(0), samples.inputs)
    >>> site = taps.sites(model, variables, samples.inputs)["dense1"]
    >>> at = retraining.cut(config.PRESETS["digits"], model, variables, samples.blank, site)
    >>> sorted(retraining.initial(at).params)  # what is retrained
    ['affine2', 'logits']
    """
    found = taps.below(model, variables, sample.inputs, site.name)
    after = [at for name, at in taps.sites(model, variables, sample.inputs).items() if name not in found]
    made = Cut(config, model, site, found, tuple(sample.inputs.shape[1:]), training.convolutional(after), replaces)
    # NaN in the layers before the site would reach the output on any path around it.
    bits = windowing.pack(jnp.zeros((1, *site.shape), bool))
    if not np.isfinite(jax.jit(lambda s: _forward(made, s, s.params, bits, before=np.nan))(initial(made))).all():
        raise SiteError(
            f"site {site.name!r} cannot be cut at: a path from the image to the output goes round it; name a site that "
            "all paths run through"
        )
    return made


def initial(cut: Cut) -> TrainState:
    """The state before retraining: the layers after the site, re-initialised."""
    seed, name = cut.config.train.seed, cut.site.name
    key, image = random_stream(seed, f"reinitialisation above {name}"), jnp.zeros((1, *cut.image))
    statistics = {k: _above(cut, v) for k, v in training.begun(cut.model, key, image).items()}
    params = statistics.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        statistics={k: v for k, v in statistics.items() if v},
        # The optimizer's state does not depend on the number of samples.
        opt_state=training.optimizer(cut.config, 1).init(params),
        key=random_stream(seed, f"dropout above {name}"),
    )


def _above(cut: Cut, tree: PyTree) -> PyTree:
    """The part of a variable collection that belongs to modules after the site."""
    flat = traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict({k: v for k, v in flat.items() if "/".join(k[:-1]) not in cut.below})


def _whole(cut: Cut, above: Mapping[str, PyTree], before: float) -> dict[str, PyTree]:
    """All variables of the network: those `above` the site, and the number `before` for all others.

    Flax needs the others, and the compiler drops them.
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

    `before` is the value of the image and of all variables before the site, on which the output does not depend.
    """
    values = windowing.unpack(bits, cut.site.shape)
    edit = {cut.site.name: lambda _: values}
    run = taps.edited(cut.model, pre=edit) if cut.replaces == "pre_activation" else taps.edited(cut.model, post=edit)
    variables = _whole(cut, {"params": params, **state.statistics}, before)
    images = jnp.full((len(bits), *cut.image), before)
    if cut.form == "convolutions":
        return run(variables, images, **kwargs)
    # Rewritten before differentiation and vmap over windows, so that the derivatives are batched products too.
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
    """The jitted programs of one `cut`: compiled once, used for every group of windows, which are trained together.

    Called with training and test samples that are binarized at the site (`windowing.binarizer`), it gives each window's
    test accuracy. The windows of a group share their order of samples, dropout and first parameters.

    >>> import jax, jax.numpy as jnp
    >>> from neuron_mech import config, taps, training
    >>> from neuron_mech.codes import retraining
    >>> from neuron_mech.training import datasets, models
    >>> samples = datasets.Samples(jnp.ones((20, 4, 4, 1), jnp.uint8), jnp.arange(20) % 10, largest=1)
    >>> model = models.MLP(neurons=8)
    >>> variables = training.begun(model, jax.random.key(0), samples.inputs)
    >>> site = taps.sites(model, variables, samples.inputs)["dense1"]
    >>> short = config.Config(train=config.Train(epochs=2, batch_size=32))
    >>> retrain = retraining.Retraining(retraining.cut(short, model, variables, samples.blank, site))
    >>> bits = retraining.Binarized(jnp.ones((3, 32, 1), jnp.uint8), jnp.arange(32) % 10)
    >>> len(set(retrain(bits, bits).tolist()))  # three windows of the same zeros and ones: one accuracy
    1
    """

    def __init__(self, cut: Cut):
        self.cut = cut

        def one_epoch(state: TrainState, bits: Array, labels: Array, ids: Array, rest: Array | None):
            return epoch(cut, state, Binarized(bits, labels), ids, rest)

        def one_step(state: TrainState, bits: Array, labels: Array, ids: Array):
            return step(cut, state, Binarized(bits, labels), ids)

        def accuracies(state: TrainState, bits: Array, labels: Array):
            # Feature maps are large: those of all windows together are limited to the size of TESTED samples.
            chunk = max(1, TESTED // len(bits)) if cut.convolutional else TESTED
            return jax.vmap(lambda state, bits: accuracy(cut, state, Binarized(bits, labels), chunk))(state, bits)

        self._whole_epoch = jax.jit(jax.vmap(one_epoch, in_axes=(0, 0, None, None, None)), donate_argnums=0)
        self._step = jax.jit(jax.vmap(one_step, in_axes=(0, 0, None, None)), donate_argnums=0)
        self._accuracy = jax.jit(accuracies)

    def order(self, samples: int, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Sample ids of an epoch: (full batches, the last smaller batch or None)."""
        config = self.cut.config
        key = random_stream(config.train.seed, f"shuffling above {self.cut.site.name}")
        ids = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), samples), dtype=np.int32)
        whole = samples // config.train.batch_size * config.train.batch_size
        return ids[:whole].reshape(-1, config.train.batch_size), ids[whole:] if whole < samples else None

    def start(self, windows: int) -> TrainState:
        """The states of `windows` windows before the first step, all equal."""
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * windows), initial(self.cut))

    def epoch(
        self, state: TrainState, train: Binarized, ids: np.ndarray, rest: np.ndarray | None
    ) -> tuple[TrainState, Float[Array, " windows"]]:
        """One epoch in this `order`: (state, mean losses in nats). The given state is donated."""
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
        """Test accuracy, 0 to 1, after retraining through each window; bits have shape (windows, samples, bytes).

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
