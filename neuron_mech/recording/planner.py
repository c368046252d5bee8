"""Making a recorder: the choices of the user, checked before anything is recorded."""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from neuron_mech import taps, training
from neuron_mech.cluster import devices, jax_settings, memory
from neuron_mech.config import Derivative
from neuron_mech.errors import InputError
from neuron_mech.precision import Precision
from neuron_mech.recording import counting, watching
from neuron_mech.recording import online as onlines
from neuron_mech.recording.checks import (
    LOOKED_AT,
    Mixing,
    check_apply,
    check_asked,
    check_different,
    check_keywords,
    check_loss,
    check_mixing,
    check_prepare,
    warn_of_signs,
)
from neuron_mech.recording.choices import Choice, chosen, chosen_neurons, chosen_positions, chosen_rows
from neuron_mech.recording.design import Design, as_they_are
from neuron_mech.recording.labelling import check_labels_fit
from neuron_mech.recording.online import Online
from neuron_mech.recording.plan import Plan
from neuron_mech.recording.recorder import Recorder
from neuron_mech.taps import PerSampleLoss, sample_mixing
from neuron_mech.taps.naming import Names, in_reach, named, selected
from neuron_mech.taps.objectives import margin


def plan(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    labels: PyTree,
    names: Names = "all",
    *,
    recordings: int,
    loss: PerSampleLoss | Mapping[str, PerSampleLoss] = margin,
    derivative: Derivative | None = None,
    precision: Precision = "exact",
    samples: Choice = None,
    site_samples: Mapping[str, int] | None = None,
    neurons: Choice = None,
    positions: Choice = None,
    keep: int = 0,
    keep_at: int | None = None,
    budget: int | None = None,
    mixing: Mixing = "refuse",
    audit: bool = True,
    chunk: int = 500,
    prepare: Callable[[PyTree], PyTree] = as_they_are,
    seed: int = 0,
    apply: Mapping[str, Any] = {},
) -> Plan:
    """What a recorder of these samples at these sites will record, and the memory that it needs.

    Arguments:
        model: a Linen module; of an NNX model, what `from_nnx` gives.
        variables: what `model.apply` takes. Where they are on several devices, each records a share of the samples.
        inputs: the model's one argument, an array or a tree with the batch first, or `Inputs` for several.
        labels: what the loss takes beside the outputs, an array or a tree with a row for each sample.
        names: sites, at least one, by name, glob or regular expression; see `neuron_mech.sites` for what there is.
        recordings: how many there will be at most, from 1; the counts are made as small as that allows.
        loss: (outputs, labels) -> one value a sample. `margin`, the default, has the exact signs of the cross-entropy.
            Several, by name, are counted from the same passes; the first is the main one.
        derivative: with respect to the "activation" (only at `Neurons` and bare functions such as `:relu`) or the
            "pre_activation"; by default to the activation where all sites have one.
        precision: "exact", products to float32's precision on any device, or "fast", as the device multiplies by
            default: on a GPU or TPU some signs are wrong then, and the `audit` says how many.
        samples: how many, or as a float what share, chosen at random with `seed`, smaller choices nested in larger
            ones; or which ones, as indices or a mask. Recorded in ascending order; None, or a larger count, is all.
        site_samples: {site: count} of sites at which fewer samples are recorded: the first of a random order.
        neurons: which of each site, chosen as `samples` are.
        positions: which of each feature map, in row-major order, chosen as `samples` are.
        keep: recordings, evenly spaced, at which pre-activations are kept, of a feature map at one position of each
            sample: a random one of those recorded, or the one that `keep_at` says. 0 for none, or from 2.
        keep_at: the flat index of that position.
        budget: bytes on a device that may not be exceeded.
        mixing: what to do where another sample's input changes a sample's derivative: "refuse", record each sample
            "alone" as a batch of one, or record the "batch" as it is.
        audit: whether to compare signs with double precision on a few samples, and to warn (SignHealthWarning) above
            0.1 % of bad ones. Of the margin in full precision there is nothing to compare.
        chunk: samples in one forward pass.
        prepare: makes the model's inputs from a chunk of the given ones, such as floats from bytes.
        seed: that of all random choices.
        apply: what else `model.apply` is given, the same for all samples, such as `{"train": False}`. Keys in `rngs`,
            and keys among the variables, are made each sample's and each recording's own.

    Returns:
        The plan, which holds the inputs and no copy of them: print it, and `plan.recorder()` makes the recorder.

    Raises InputError, or its SiteError, where any of this cannot be.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> print(neuron_mech.plan(model, variables, x, labels, "layers_0", recordings=9, samples=4))
    9 recordings of layers_0 (4 samples x 4 values): 0.0 MB on the device, 0.0 MB of them counts; 0.0 MB in a checkpoint
    """
    size = taps.batch_size((inputs, labels))
    check_apply(apply, size)
    apply = taps.bound(apply)
    some = jax.tree.map(lambda leaf: jnp.asarray(leaf[:LOOKED_AT] if size > LOOKED_AT else leaf), (inputs, labels))
    seen = prepare(some[0])
    check_prepare(prepare, some[0], seen)
    everything, half = taps.looked_at(model, variables, seen, **apply)
    sites = named(everything, names)
    losses = dict(loss) if isinstance(loss, Mapping) else {"loss": loss}
    for each in losses.values():
        check_labels_fit(each, labels, check_loss(model, variables, seen, some[1], each, **apply))
    check_asked(sites, derivative, recordings)
    if keep == 1 or keep < 0:
        raise InputError(f"keep={keep}: a change needs at least two recordings, the first and the last; 0 keeps none")
    rows = chosen(samples, "samples", size, seed)
    rows = np.arange(size) if rows is None else rows
    counts, order = chosen_rows(site_samples or {}, sites, len(rows), seed)
    design = Design(
        model=model,
        losses=losses,
        sites=sites,
        rows=counts,
        neurons=chosen_neurons(sites, neurons, seed),
        positions=chosen_positions(sites, positions, seed),
        derivative=derivative or in_reach(sites),
        precision=precision,
        recordings=recordings,
        chunk=taps.fitting(sites, chunk),
        mesh=devices.mesh_of(variables),
        stepwise=training.stepwise(training.convolutional(everything[site] for site in taps.usual(everything))),
        shapes=jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dict(variables)),
        batched=mixing == "batch",
        keeps=tuple(np.unique(watching.evenly(keep, recordings)).tolist()) if keep else (),
        prepare=prepare,
        rngs=apply.get("rngs"),
        kwargs={name: value for name, value in apply.items() if name != "rngs"},
    )
    for name, site in sites.items():
        several, these = math.prod(site.shape[:-1]), design.positions[name]
        if keep_at is not None and keep_at not in (range(several) if these is None else these):
            raise InputError(f"keep_at={keep_at} is no position that is recorded at {name!r}, of {several} from 0")
    with jax_settings.standard():
        keys = {name: jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())) for name in sites}
        among = design.positions if keep_at is None else {name: np.array([keep_at]) for name in sites}
        places = watching.watched_places(sites, counts, len(rows), keys, among)
    made = Plan(design, variables, inputs, labels, rows[order].astype(np.int32), places)  # as jit returns them
    if budget is not None and made.device > budget:
        raise InputError(
            f"budget={budget}, but recording needs {made.device} bytes on the device: samples="
            f"{made.samples_within(budget)} would fit; or record fewer neurons, positions or sites, or keep less"
        )
    if mixing == "refuse":
        check_mixing(design, variables, seen, some[1])
    if audit:
        warn_of_signs(design, variables, some[0], some[1], half)
    return made


def recorder(*args: Any, **kwargs: Any) -> Recorder:
    """A recorder that counts the signs of these samples' own derivatives: `plan(...).recorder()`.

    Takes the arguments of `plan` and raises its errors, and TypeError for another. See `Recorder` for what it gives.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> recorder = neuron_mech.recorder(model, variables, x, labels, "layers_*", recordings=100)
    >>> recorder.update(variables).recordings  # called from time to time in training, each time with the new variables
    1
    """
    check_keywords("recorder", plan, kwargs)
    return plan(*args, **kwargs).recorder()


def online(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: PyTree,
    names: Names = "all",
    *,
    samples: int,
    recordings: int,
    counted: Choice = None,
    neurons: Choice = None,
    positions: Choice = None,
    derivative: Derivative | None = None,
    precision: Precision = "exact",
    room: int | None = None,
    mixing: Literal["refuse", "batch"] = "refuse",
    seed: int = 0,
    apply: Mapping[str, Any] = {},
) -> Online:
    """A recorder of the training step's own derivatives, which cost no pass of their own.

    Arguments:
        model: a Linen module; of an NNX model, what `from_nnx` gives.
        variables: what `model.apply` takes.
        inputs: a few samples, different ones, for their shapes and to see whether samples mix.
        names: sites, at least one, by name, glob or regular expression; see `neuron_mech.sites`.
        samples: the number of training samples, whose ids are 0 to `samples` - 1.
        recordings: the largest number of times that a sample will be trained on: the number of epochs.
        counted: the samples to record, chosen as in `plan`.
        neurons: those of each site, as in `plan`.
        positions: those of each site, as in `plan`.
        derivative: as in `plan`.
        precision: that of the training step, whose derivatives are recorded: "exact", float32 on any device, several
            times slower on a GPU or TPU; or "fast", the device's default, with some wrong signs.
        room: the largest number of samples between two calls of `end_epoch`; by default an epoch and a tenth.
        mixing: "batch" to record although the samples of a batch mix, as with batch statistics.
        seed: that of all random choices.
        apply: further arguments of `model.apply` in training.

    Returns:
        The recorder. For each (sample, position, neuron) its counts take 3 bytes, 6 from 127 recordings on, and signs
            that wait about one.

    Raises InputError where samples mix, or the device has no room, and SiteError for a name without a site.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> import neuron_mech
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> x, labels = jnp.ones((5, 2)), jnp.arange(5) % 3
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> some = x + jnp.arange(5.0)[:, None]
    >>> recorder = neuron_mech.online(model, variables, some, "layers_*", samples=60_000, recordings=10)
    >>> {site: zeros.shape for site, zeros in recorder.perturbations(batch=32).items()}  # see Online for the loop
    {'layers_0': (32, 4), 'layers_2': (32, 3)}
    """
    apply = taps.bound(apply)
    sites = selected(model, variables, inputs, names, **apply)
    check_asked(sites, derivative, recordings)
    if mixing != "batch":
        check_different(inputs)
    if mixing != "batch" and (layers := sample_mixing.mixing_layers(model, variables, inputs, **apply)):
        raise InputError(
            f"samples of a batch mix in {', '.join(layers)}, so that a derivative is not one sample's own. Ways out: "
            "mixing='batch', to record them as training sees them, knowingly; neuron_mech.recorder, which can use "
            "running statistics; or a network without batch statistics"
        )
    ids = chosen(counted, "counted", samples, seed)
    rows = samples if ids is None else len(ids)
    design = Design(
        model=model,
        losses={"loss": margin},
        sites=sites,
        rows=dict.fromkeys(sites, rows),
        neurons=chosen_neurons(sites, neurons, seed),
        positions=chosen_positions(sites, positions, seed),
        derivative=derivative or in_reach(sites),
        precision=precision,
        recordings=recordings,
        chunk=1,
        mesh=devices.mesh_of(variables),
        stepwise=False,
        shapes={},
        batched=True,
    )
    more = max(samples // 10, 1024) if room is None else room - rows
    values = sum(math.prod(design.value_shape(site)) for site in sites)
    need = values * (3 * counting.count_type(recordings).itemsize * rows + rows + more)
    if need > (free := memory.free_memory()[0]):
        raise InputError(
            f"counts and waiting signs need {memory.size(need)} on the device and {memory.size(free)} are free: "
            "name fewer sites, give less room= and call end_epoch more often, or count fewer samples with counted="
        )
    return onlines.begin(design, samples, np.arange(samples) if ids is None else ids, more)
