"""Data and models, and the pure training step, which returns activation gradients beside the loss, and evaluation.

Nothing here keeps state, and nothing but `begun` is jitted: the callers jit, and decide which buffers are donated.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PyTree

from neuron_mech import taps
from neuron_mech.config import Config, Derivative, random_stream
from neuron_mech.taps import Site, objectives
from neuron_mech.taps.objectives import margin
from neuron_mech.training.datasets import Samples


class TrainState(struct.PyTreeNode):
    """Everything that the next step depends on, besides its batch.

    `statistics` holds the model's other collections, such as batch statistics. `key` never changes: step i draws its
    dropout from `fold_in(key, i)`, so that a resumed run draws the same.
    """

    step: Int[Array, "*runs"]
    params: PyTree
    statistics: PyTree
    opt_state: PyTree
    key: Array

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, **self.statistics}


def batches(config: Config, samples: int) -> int:
    """Batches in an epoch of `samples` training samples, including the last, smaller one."""
    return -(-samples // config.train.batch_size)


def optimizer(config: Config, samples: int) -> optax.GradientTransformation:
    """Plain SGD without momentum, for a training set of `samples`.

    The step size is divided once by `train.drop_factor`, after `train.drop_after` of the epochs.
    """
    train = config.train
    drop = round(train.drop_after * train.epochs) * batches(config, samples)
    if drop >= train.epochs * batches(config, samples):
        return optax.sgd(train.learning_rate)
    return optax.sgd(lambda step: jnp.where(step < drop, train.learning_rate, train.learning_rate / train.drop_factor))


def convolutional(sites: Iterable[Site]) -> bool:
    """Whether any of these sites, as `taps.sites` lists them, is a convolution."""
    return any(site.kind == nn.Conv.__name__ for site in sites)


def stepwise(convolutional: bool) -> bool:
    """Whether a loop over training steps or chunks runs on the host, with one compiled call for each.

    On a CPU the gradients of a convolution inside a compiled loop took 7 times (recording) to 26 times (training) as
    long as outside. On other devices, and without convolutions, one compiled call for the whole loop is faster.
    """
    return convolutional and jax.default_backend() == "cpu"


def init(config: Config, model: nn.Module, sample: Samples) -> TrainState:
    """The state before the first step. `sample` gives the inputs' shape."""
    statistics = begun(model, random_stream(config.train.seed, "initialisation"), sample.inputs)
    params = statistics.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        statistics=statistics,
        # The optimizer's state does not depend on the number of samples.
        opt_state=optimizer(config, 1).init(params),
        key=random_stream(config.train.seed, "dropout"),
    )


@partial(jax.jit, static_argnames="model")
def begun(model: nn.Module, key: Array, inputs: Array) -> dict[str, PyTree]:
    """Parameters and running statistics before the first step.

    By one program: outside of `jit` each of many operations would be one. The bits are the same: uniform numbers times
    a constant.
    """
    # init also returns what the model sows.
    return {k: v for k, v in model.init(key, inputs).items() if k not in ("intermediates", "perturbations")}


def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Samples,
    perturbations: Mapping[str, jax.Array],
    derivative: Derivative = "activation",
) -> tuple[TrainState, Float[Array, ""], dict[str, jax.Array]]:
    """One step on the batch's mean cross-entropy, `softplus(margin)`, in training mode. Pure: jit it.

    Arguments:
        model: one whose call takes `train`, as those of `models` do.
        optimizer: such as `training.optimizer(config, samples)`.
        state: as `training.init` makes it; its `step` says which dropout is drawn.
        batch: of at least one sample. Its images are stored integers, which become floats in here.
        perturbations: `taps.zeros` for this batch at the sites to record, `{}` for none. Their gradients come out of
            the same backward pass as the parameters'.
        derivative: with respect to what these are: activations or pre-activations.

    Returns:
        (the state after the step, the loss before it in nats, {site: d loss / da of the values' shape}). The last are
            derivatives of the *mean* loss: 1/batch of each sample's own, where samples do not mix.

    Raises SiteError, while tracing, for a perturbation at no site or of another shape than its values.

    >>> import jax, jax.numpy as jnp
    >>> from functools import partial
    >>> from neuron_mech import taps, training
    >>> from neuron_mech.config import PRESETS
    >>> from neuron_mech.training import datasets, models
    >>> config, model = PRESETS["digits"], models.MLP(neurons=8)
    >>> batch = datasets.Samples(jnp.ones((20, 4, 4, 1), jnp.uint8), jnp.arange(20) % 10, largest=1)
    >>> state = training.init(config, model, batch)
    >>> zeros = taps.zeros({"dense2": taps.sites(model, state.variables, batch.inputs)["dense2"]}, len(batch))
    >>> step = jax.jit(partial(training.train_step, model, training.optimizer(config, samples=20)))
    >>> state, loss, gradients = step(state, batch, zeros)
    >>> int(state.step), loss.shape, gradients["dense2"].shape
    (1, (), (20, 8))
    """

    def mean_loss(params: PyTree, perturbations: Mapping[str, jax.Array]) -> tuple[jax.Array, PyTree]:
        logits, statistics = taps.perturbed(model, perturbations, derivative)(
            {"params": params, **state.statistics},
            batch.inputs,
            train=True,
            rngs={"dropout": jax.random.fold_in(state.key, state.step)},
            mutable=list(state.statistics),
        )
        return nn.softplus(margin(logits, batch.labels)).mean(), statistics

    return descend(optimizer, state, mean_loss, perturbations)


def descend(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    mean_loss: Callable[[PyTree, Mapping[str, jax.Array]], tuple[jax.Array, PyTree]],
    perturbations: Mapping[str, jax.Array],
) -> tuple[TrainState, Float[Array, ""], dict[str, jax.Array]]:
    """One step down `mean_loss(params, perturbations) -> (loss, statistics)`: (state, loss, activation gradients)."""
    loss, backward, statistics = jax.vjp(mean_loss, state.params, dict(perturbations), has_aux=True)
    gradients, activation_gradients = backward(jnp.ones_like(loss))
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        statistics=statistics,
        opt_state=opt_state,
    )
    return state, loss, activation_gradients


def accuracy(model: nn.Module, variables: Mapping[str, Any], samples: Samples, chunk: int = 1000) -> Float[Array, ""]:
    """Share of samples whose largest logit is the label's, in evaluation mode; every sample counts once."""

    def right(sample: Samples) -> jax.Array:
        one = jax.tree.map(lambda leaf: leaf[None], sample)
        return objectives.right(model.apply(variables, one.inputs)[0], sample.labels)

    return jax.lax.map(right, samples, batch_size=chunk).mean()


def epoch_order(config: Config, samples: int, epoch: int) -> Int[np.ndarray, " samples"]:
    """The ids of the training samples in the order in which this epoch visits them."""
    key = jax.random.fold_in(random_stream(config.train.seed, "shuffling"), epoch)
    return np.asarray(jax.random.permutation(key, samples), dtype=np.int32)
