"""The two readouts of binarized windows: a network retrained above the site, and a linear probe.

Both are generators of cells of the sweep, a group of windows at a time, so that a stopped sweep loses at most a group.
The windows are the same for both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from experiments.command_line import Seeded
from neuron_mech import taps
from neuron_mech.codes import linear_probes, retraining, sources, windowing
from neuron_mech.codes.retraining import Form
from neuron_mech.codes.windowing import Window
from neuron_mech.config import HUGE, TINY, Derivative, Limits, random_stream
from neuron_mech.runs.subjects import Subject
from neuron_mech.store import files

FEW = 100_000
"""Number of training images, over all epochs, that take a CPU about a second."""

PENALTY = Limits(TINY, HUGE, "positive, finite number")
"""Limits of a probe's penalty."""

Missing = Mapping[tuple[str, str], Int[np.ndarray, " windows"]]
"""{(source, site): the windows that have no accuracy yet}, none of them empty."""


@dataclass(frozen=True)
class Reading(Seeded):
    """The windows, and how they are read."""

    centers: tuple[float, ...] = tuple(range(5, 100, 10))
    """Percentile ranks at the windows' centers."""
    width: float = 10.0
    """Width of a window, in percentile ranks; windows at the ends are open-ended."""
    penalty: float = 1e-3
    """L2 penalty of a probe: penalty / 2 x the sum of squared weights is added to the mean cross-entropy (nats)."""
    together: int | None = None
    """Windows retrained in one program. None means one where convolutions follow the site, unless a GPU or TPU batches
    them (see form), and all where none follow; but on a CPU one where that takes more than seconds: ten together are a
    sixth to two fifths faster there, but what is not finished is lost when the sweep is stopped. It is printed."""
    form: Form | None = None
    """What convolutions that follow a site are computed as in retraining: convolutions, those of several windows
    together being one in groups; products, one for each place of the kernel, batched over windows; or patches, one
    batched product of all places, which takes most memory. The same numbers to rounding. None means convolutions for
    windows one after another, and patches for several together."""
    replace: Derivative = "pre_activation"
    """What zeros and ones take the place of: the pre_activation, so that the activation function still applies to
    them, or the activation itself. The same for ReLU; a sigmoid makes 0.5 and 0.73 of them, and learns badly. A
    probe sees the zeros and ones themselves."""


class Cells(NamedTuple):
    """Accuracies of some windows at one site of one source (`kind`)."""

    kind: str
    site: str
    windows: Int[np.ndarray, " windows"]
    accuracy: Float[np.ndarray, " windows"]


def windows_of(subject: Subject, options: Reading, names: list[tuple[str, str]]) -> dict[tuple[str, str], Window]:
    """All windows of these (source, site) pairs, from one pass over the training images."""
    if not names:
        return {}
    seed = subject.config.train.seed
    values = sources.chosen_values(
        sources.Joined({kind: subject.source(kind) for kind in dict.fromkeys(kind for kind, _ in names)}),
        subject.dataset.train,
        random_stream(seed, "images for windows"),
        {(kind, site): jax.random.split(random_stream(seed, f"windows of {kind} {site}"))[1] for kind, site in names},
        chunk=taps.fitting(subject.sites, 1000),
    )
    return {name: windowing.at_centers(values.pop(name).values, options.centers, options.width) for name in names}


def retrained(subject: Subject, options: Reading, missing: Missing) -> Iterator[Cells]:
    """Cells by retraining: all layers after the site, re-initialised, with the model's own schedule."""
    config, dataset = subject.config, subject.dataset
    total = sum(map(len, missing.values())) * config.train.epochs
    windows = windows_of(subject, options, list(missing))
    with tqdm(total=total, desc=f"windows, seed {config.train.seed}", unit="epoch") as bar:
        for site in dict.fromkeys(site for _, site in missing):
            cut = retraining.cut(
                config, subject.model, subject.variables, dataset.train.blank, subject.sites[site], options.replace
            )
            how = way(options, cut.convolutional, config.train.epochs * len(dataset.train))
            tqdm.write(f"{subject.label(site)}: {_said(how, cut.convolutional)}")
            retrain = retraining.Retraining(replace(cut, form=how.form))
            for kind in (kind for kind, at in missing if at == site):
                look = windowing.binarizer(subject.source(kind), site)
                for start in range(0, len(missing[kind, site]), how.together):
                    group = missing[kind, site][start : start + how.together]
                    bar.set_postfix_str(f"{site} {kind} {', '.join(f'{options.centers[i]:g}' for i in group)}")
                    chosen = jax.tree.map(lambda leaf, group=group: leaf[group], windows[kind, site])
                    train, test = look(chosen, dataset.train), look(chosen, dataset.test)
                    yield Cells(kind, site, group, retrain(train, test, partial(bar.update, len(group))))


class Way(NamedTuple):
    """How the windows of a site are retrained."""

    together: int
    """Number of windows in one program."""
    form: Form
    """What convolutions after the site are computed as."""


def way(options: Reading, convolutional: bool, images: int) -> Way:
    """How windows are retrained on `images` images over all epochs: as the options say, else as measured to be fastest.

    Where no convolution follows: on two CPU cores ten together take a sixth (MNIST) to two fifths (digits) less time
    than ten apart, but apart no more than one is lost when the sweep is stopped: together where a window trains on few
    images, and on a GPU or TPU.

    Where convolutions follow, on two busy CPU cores: ten together take less than ten apart at a sixteenth of the CNN's
    width only, and as patches, which take half as long as groups. Apart, patches saved up to a quarter of the
    processor's time above late sites of the CNN, nothing above stage2layer2 at a quarter of the width, and took 1.6
    times as much above stage0layer0. So convolutions stay what they are. On a GPU or TPU no form has been measured
    (`experiments.benchmark cifar10-relu --only-windows` does): there too they are apart unless a form is asked for
    that batches them.
    """
    cpu, every = jax.default_backend() == "cpu", len(options.centers)
    if not convolutional:
        return Way(options.together or (1 if cpu and images > FEW else every), "convolutions")
    batched = not cpu and options.form in ("products", "patches")
    together = options.together or (every if batched else 1)
    return Way(together, options.form or ("convolutions" if together == 1 else "patches"))


def _said(how: Way, convolutional: bool) -> str:
    windows = "windows one after another" if how.together == 1 else f"{how.together} windows together"
    as_what = "they are" if how.form == "convolutions" else how.form
    return f"{windows} on a {jax.default_backend()}" + f", convolutions as {as_what}" * convolutional


def probed(subject: Subject, options: Reading, missing: Missing) -> Iterator[Cells]:
    """Cells by linear probes on the windows' averages over positions, of at most TRAINING_IMAGES images.

    The features of all windows, sites and sources come from one pass over each split, and are kept on disk.
    """
    dataset, seed = subject.dataset, subject.config.train.seed
    folder = subject.directory / "features" / f"{'-'.join(f'{c:g}' for c in options.centers)}_{options.width:g}"
    train, names = dataset.train, list(missing)
    if len(train) > linear_probes.TRAINING_IMAGES:
        key = random_stream(seed, "images for probes")
        some = np.asarray(jax.random.permutation(key, len(train)))[: linear_probes.TRAINING_IMAGES]
        train = train.rows(np.sort(some))
    splits = {"train": train, "test": dataset.test}
    counts = {split: {name: folder / f"{split}_{name[0]}_{name[1]}.npy" for name in names} for split in splits}
    labels = {split: folder / f"{split}_labels.npy" for split in splits}
    lacking = {
        split: [name for name in names if not all(map(_there, (labels[split], counts[split][name])))]
        for split in splits
    }
    sites = {(kind, site): subject.sites[site] for kind, site in names}
    need = {
        split: linear_probes.nbytes({name: sites[name] for name in lacking[split]}, len(options.centers), len(samples))
        for split, samples in splits.items()
    }
    if any(need.values()):
        tqdm.write(
            f"features of {len(names)} x {len(options.centers)} windows: {sum(need.values()) / 1e6:,.1f} MB in {folder}"
        )
    windows = windows_of(subject, options, list(dict.fromkeys(lacking["train"] + lacking["test"])))
    for split, samples in splits.items():
        if lacking[split]:
            linear_probes.count(
                sources.Joined(
                    {kind: subject.source(kind) for kind in dict.fromkeys(kind for kind, _ in lacking[split])}
                ),
                {name: windows[name] for name in lacking[split]},
                sites,
                samples,
                counts[split],
                labels[split],
                taps.fitting(subject.sites, 1000),
            )
    yield from _probes(subject, options, missing, counts, labels)


def _there(path: Path) -> bool:
    """Whether a .npy file exists and is complete."""
    try:
        files.read_array(path, mapped=True)
    except (OSError, ValueError):
        return False
    return True


def _probes(
    subject: Subject,
    options: Reading,
    missing: Missing,
    counts: Mapping[str, Mapping[tuple[str, str], Path]],
    labels: Mapping[str, Path],
) -> Iterator[Cells]:
    """Probes on the stored features, one window after another."""
    dataset = subject.dataset
    train_labels, test_labels = files.read_array(labels["train"]), files.read_array(labels["test"])
    total = sum(map(len, missing.values()))
    with tqdm(total=total, desc=f"probes, seed {subject.config.train.seed}", unit="probe") as bar:
        for (kind, site), windows in missing.items():
            train, test = (files.read_array(counts[split][kind, site], mapped=True) for split in ("train", "test"))
            for window in windows:
                where = f"{site} {kind} {options.centers[window]:g}"
                bar.set_postfix_str(where)
                # Where corrupt images were left out, there are fewer samples than rows.
                probe = linear_probes.fit(
                    train[window, : len(train_labels)], train_labels, dataset.classes, options.penalty
                )
                if not probe.converged:
                    tqdm.write(
                        f"the probe at {where} has not converged: its gradient is {probe.gradient:.1e} after "
                        f"{probe.evaluations} evaluations, not {linear_probes.TOLERANCE:.0e}; a larger --penalty helps"
                    )
                found = linear_probes.accuracy(probe, test[window, : len(test_labels)], test_labels, dataset.top)
                yield Cells(kind, site, np.array([window]), np.array([found]))
                bar.update()
