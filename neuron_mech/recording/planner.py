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
    check_different,
    check_keywords,
    check_loss,
    check_mixing,
    check_prepare,
    check_recordings,
    warn_of_signs,
)
from neuron_mech.recording.choices import Choice, chosen
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
    """The plan of a recorder of these samples at these sites, with the memory that it needs.

    - `inputs`: the model's one argument, an array or a tree with the batch first, or `Inputs` for several.
    - `names`: sites, by name, glob or regular expression; see `neuron_mech.sites` for what there is.
    - `recordings`: how many there will be at most; the counts are made as small as that allows.
    - `loss`: (outputs, labels) -> one value a sample. `margin`, the default, has the exact signs of the cross-entropy.
      Any other is compared with double precision on a few samples (`audit`), which warns above 0.1 % of bad signs.
      Several, by name, are counted from the same passes; the first is the main one.
    - `derivative`: with respect to the "activation" (only at `Neurons` and bare functions such as `:relu`) or the
      "pre_activation"; by default to the activation where all sites have one.
    - `precision`: "exact", products to float32's precision on any device, or "fast", as the device multiplies by
      default: on a GPU or TPU some signs are wrong then, and the `audit` says how many.
    - `samples`, `neurons` (of each site), `positions` (of each feature map, in row-major order): how many, or as a
      float what share, chosen at random with `seed`, smaller choices nested in larger ones; or which ones, as indices
      or a mask. They are recorded in ascending order.
    - `site_samples`: {site: count} of sites at which fewer samples are recorded: the first of a random order.
    - `keep`: recordings, evenly spaced, at which pre-activations are kept, of a feature map at one position of each
      sample: a random one of those recorded, or the one that `keep_at` says.
    - `budget`: bytes on a device that may not be exceeded.
    - `mixing`: what to do where another sample's input changes a sample's derivative.
    - `chunk`: samples in one forward pass. `prepare`: a function that makes the model's inputs from a chunk of the
      given ones, such as floats from bytes.
    - `apply`: what else `model.apply` is given, the same for all samples, such as `{"train": False}`. Keys in `rngs`,
      and keys among the variables, are made each sample's and each recording's own.

    Where the variables are on several devices, each of them records a share of the samples. Raises InputError, or its
    SiteError, where any of this cannot be.
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
    check_recordings(recordings)
    if keep == 1 or keep < 0:
        raise InputError(f"keep={keep}: a change needs at least two recordings, the first and the last; 0 keeps none")
    rows = chosen(samples, "samples", size, seed)
    rows = np.arange(size) if rows is None else rows
    counts, order = _site_rows(site_samples or {}, sites, len(rows), seed)
    design = Design(
        model=model,
        losses=losses,
        sites=sites,
        rows=counts,
        neurons=_neurons(sites, neurons, seed),
        positions=_positions(sites, positions, seed),
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


def _neurons(sites: Mapping[str, taps.Site], wanted: Choice, seed: int) -> dict[str, np.ndarray | None]:
    """Indices of the recorded neurons by site; None for all."""
    return {name: chosen(wanted, "neurons", site.shape[-1], seed) for name, site in sites.items()}


def _positions(sites: Mapping[str, taps.Site], wanted: Choice, seed: int) -> dict[str, np.ndarray | None]:
    """Flat indices of the recorded positions by site; None for all."""
    return {name: chosen(wanted, "positions", math.prod(site.shape[:-1]), seed) for name, site in sites.items()}


def _site_rows(
    wanted: Mapping[str, int], sites: Mapping[str, taps.Site], samples: int, seed: int
) -> tuple[dict[str, int], np.ndarray]:
    """(number of samples by site, order of the samples): a random order where some sites record fewer samples."""
    for name, count in wanted.items():
        if name not in sites:
            raise InputError(f"site_samples has {name!r}, which is not recorded; recorded sites: {', '.join(sites)}")
        if not 1 <= count <= samples:
            raise InputError(f"site_samples has {count} for {name!r}: give a count from 1 to {samples}")
    if not wanted:
        return dict.fromkeys(sites, samples), np.arange(samples)
    with jax_settings.standard():
        order = np.asarray(jax.random.permutation(jax.random.key(seed), samples))
    return {name: wanted.get(name, samples) for name in sites}, order


def recorder(*args: Any, **kwargs: Any) -> Recorder:
    """`plan(...).recorder()`: a recorder with the arguments of `plan`."""
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
    """A recorder of the training step's own gradients, for training samples numbered 0 to `samples` - 1.

    - `inputs`: a few samples, different ones, for their shapes and to see whether samples mix.
    - `names`: sites, by name, glob or regular expression; see `neuron_mech.sites`.
    - `recordings`: the largest number of times that a sample will be trained on: the number of epochs.
    - `counted`: the samples to record; `neurons` and `positions`: those of each site, as in `plan`.
    - `derivative`: as in `plan`.
    - `precision`: that of the training step, whose derivatives are recorded: "exact", float32 on any device, several
      times slower on a GPU or TPU; or "fast", the device's default, with some wrong signs.
    - `room`: the largest number of samples between two calls of `end_epoch`; by default an epoch and a tenth.
    - `mixing`: "batch" to record although the samples of a batch mix, as with batch statistics.
    - `apply`: further arguments of `model.apply` in training.

    Raises InputError where samples mix, or the device has no room, and SiteError for a name without a site.
    """
    check_recordings(recordings)
    apply = taps.bound(apply)
    sites = selected(model, variables, inputs, names, **apply)
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
        neurons=_neurons(sites, neurons, seed),
        positions=_positions(sites, positions, seed),
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
