"""How many signs are wrong, depending on the arithmetic of products?

Takes a preset's trained network (training it first where needed), and compares the signs of its derivatives at every
layer with double precision: as this device computes them (exact, fast, in float32) and as others would, with operands
rounded to TF32 (a GPU's default for float32) or bfloat16 (a TPU's), in one product or in three. Writes precision.nc,
and prints the seconds that each way takes here for 1,000 samples at all layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.lax import Precision as Lax

from experiments.command_line import Options, Session, check_training, main
from neuron_mech import precision, store, taps
from neuron_mech.cluster.devices import named
from neuron_mech.config import random_stream
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.recording import auditing
from neuron_mech.runs.subjects import Subject
from neuron_mech.store import variable
from neuron_mech.taps.objectives import margin

WAYS: Mapping[str, precision.Precision | precision.Product] = {
    "exact": "exact",
    "fast": "fast",
    "float32": lambda _, as_it_is, left, right: as_it_is(left, right, precision=(Lax.HIGHEST, Lax.HIGHEST)),
    "tf32, imitated": precision.imitated(precision.TF32),
    "bfloat16, imitated": precision.imitated(precision.BFLOAT16),
    "three of tf32, imitated": precision.imitated(precision.TF32, passes=3),
}
"""Ways to compute products, as `taps.per_sample_gradients` takes them."""


@dataclass(frozen=True)
class PrecisionOptions(Options):
    """Options of this experiment."""

    samples: int = 100
    """Number of random training samples whose signs are compared with double precision."""


def measure(subject: Subject, samples: int) -> xr.Dataset:
    """precision.nc: wrong and lost signs by way and layer, and seconds of each way."""
    train, model, variables = subject.dataset.train, subject.model, subject.variables
    pick = random_stream(subject.config.train.seed, "samples for precision")
    some = train.rows(np.asarray(jax.random.permutation(pick, len(train)))[:samples])
    sites = taps.select(taps.sites(model, variables, some.inputs), ("all",))
    derivative = subject.config.record.derivative
    chunk = taps.fitting(sites, min(20, samples))

    def way(how: precision.Precision | precision.Product) -> Callable[..., Any]:
        return jax.jit(
            lambda v, x, y: taps.per_sample_gradients(model, v, x, y, sites, {"margin": margin}, derivative, how)[
                "margin"
            ]
        )

    ways = {name: way(how) for name, how in WAYS.items()}
    exact = auditing.in_double(model, sites, margin, derivative)
    every = lambda *args: {name: run(*args) for name, run in ways.items()}  # noqa: E731
    health = auditing.against(exact, every, variables, some.inputs, some.labels, chunk)
    part = (variables, some.inputs[:chunk], some.labels[:chunk])
    seconds = [1000 * min(_seconds(run, part) for _ in range(3)) / chunk for run in ways.values()]
    shares = {
        "wrong_sign": ("wrong", "share of signs that are the opposite in double precision"),
        "lost_sign": ("zeroed", "share of derivatives that are zero, but not so in double precision"),
    }
    return xr.Dataset(
        {
            **{
                name: variable("way site", [[getattr(health[w][s], of) for s in sites] for w in ways], text)
                for name, (of, text) in shares.items()
            },
            "seconds": variable("way", seconds, "of 1,000 samples' derivatives at all layers", "s"),
        },
        {"way": list(ways), "site": list(sites)},
        {"preset": subject.config.preset, "samples": samples, "device": named()},
    )


def _seconds(run: Callable[..., Any], args: tuple[Any, ...]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    return time.perf_counter() - start


def summary(found: xr.Dataset) -> str:
    """The table: layers by ways."""
    width = max(len(site) for site in found.site.values)
    lines = [
        f"{found.attrs['preset']}: share of wrong signs of {found.attrs['samples']} samples, by how products are "
        f"computed, on {found.attrs['device']}",
        f"{'':{width}}  " + "  ".join(f"{way:>14}" for way in found.way.values),
    ]
    for site in found.site.values:
        wrong = found.wrong_sign.sel(site=site).values
        lines.append(
            f"{site:{width}}  "
            + "  ".join(f"{share:>{max(14, len(way))}.3%}" for share, way in zip(wrong, found.way.values, strict=True))
        )
    lines.append(
        f"{'seconds':{width}}  "
        + "  ".join(f"{s:>{max(14, len(w))}.3f}" for s, w in zip(found.seconds.values, found.way.values, strict=True))
    )
    return "\n".join(lines)


def experiment(session: Session[PrecisionOptions]) -> None:
    """Measure, write the results and print the table."""
    options = session.options
    subject = next(session.subjects())
    if options.samples > len(subject.dataset.train):
        raise InputError(f"--samples is {options.samples}, but there are {len(subject.dataset.train)} training samples")
    found = measure(subject, options.samples)
    store.write_dataset(session.directory / "precision.nc", found)
    print(summary(found))


def check(options: PrecisionOptions) -> None:
    """Refuse what cannot be, before anything is trained."""
    check_training(options)
    if options.samples < 1:
        raise InputError(f"--samples is {options.samples}: give a whole number of at least 1")


if __name__ == "__main__":
    main("precision", __doc__ or "", experiment, PrecisionOptions, check)
