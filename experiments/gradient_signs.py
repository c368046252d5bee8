"""How constant is the sign of a sample's derivative at a neuron, through training? (Section 4.1; figures 1 and 5.)

Writes gradient_signs.nc, average_signs.nc (of every sample and neuron), and figures/: figure1 (one random neuron a
site), figure5 (all neurons), figure5_by_phase (before and after saturation), constancy (over training time) and
objectives where several were recorded.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import train
from experiments.command_line import main_of_runs
from experiments.command_line.columns import aligned
from experiments.command_line.progress import doing
from neuron_mech import store
from neuron_mech.config import random_stream
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper import explorer, figures
from neuron_mech.recording import auditing, counting, partitions, summaries
from neuron_mech.recording.auditing import SignHealth
from neuron_mech.recording.counting import constancy
from neuron_mech.recording.summaries import Recorded
from neuron_mech.runs import Run
from neuron_mech.store import variable
from neuron_mech.taps import PerSampleLoss
from neuron_mech.taps.objectives import OBJECTIVES

AUDITED = 100
"""Recorded samples whose signs are compared with double precision."""


def dataset(run: Run) -> xr.Dataset:
    """gradient_signs.nc: what the tallies say, by site, by neuron, by objective and by epoch.

    Raises InputError for a run that recorded nothing.
    """
    study = run.study
    record, kept = study.config.record, recorded(run)
    tallies, history = run.tallies, run.state.history
    saturated = int(history["saturation_epoch"][0])
    found = summaries.of_signs(kept, study.recordings, {site: _shown(run, site) for site in study.sites})
    phases = {site: _counts_by_phase(run, site, saturated) for site in study.sites}
    health = _sign_health(run)
    zero = [
        [1 - np.asarray(t.recorded, np.int64).sum() / (study.recordings * t.positive.size) for t in at.values()]
        for at in tallies.values()
    ]
    disagreement = [
        [float(partitions.disagreement(kept[site].tally, t)) for site, t in at.items()] for at in tallies.values()
    ]
    wrong, lost = ([[getattr(health[o][s], of) for s in study.sites] for o in tallies] for of in ("wrong", "zeroed"))
    by_phase = [[constancy(*counting.constant_counts(*counts)) for counts in of] for of in phases.values()]
    by_neuron = [[np.asarray(counting.histograms(*counts)) for counts in of] for of in phases.values()]
    histograms = [[each.sum(0, dtype=np.int64) for each in of] for of in by_neuron]
    so_far = "constancy of the recordings up to an epoch's end"
    apart = "of the recordings before and after training accuracy saturated"
    all_neurons = "histogram of average signs over all neurons, of the recordings before and after saturation"
    first = "first epoch to end with training accuracy at record.saturation; -1 never"
    by_objective = {
        "objective_constancy": (history["constancy"][:, :, -1], "constancy by recorded objective"),
        "zero_share": (zero, "share of recorded derivatives that were exactly zero, and not counted"),
        "wrong_sign": (wrong, "share of signs, at the end, that are the opposite in double precision"),
        "lost_sign": (lost, "share of derivatives, at the end, that are zero but not so in double precision"),
        "category_disagreement": (disagreement, "share of pairs whose category differs from the main objective's"),
    }
    variables: dict[str, tuple] = {
        "constancy_so_far": variable("site epoch", history["constancy"][0], so_far),
        "constancy_by_phase": variable("site phase", by_phase, f"constancy {apart}"),
        "phase_histogram": variable("site phase bin", histograms, all_neurons, "pairs"),
        "saturation_epoch": variable("", saturated, first, "epoch"),
        **{name: variable("objective site", of, said) for name, (of, said) in by_objective.items()},
        "train_accuracy": variable("epoch", history["train_accuracy"], "training accuracy"),
        "test_accuracy": variable("epoch", history["test_accuracy"], "test accuracy"),
    }
    if run.mixing:
        mixing = "largest relative change of a derivative when the rest of the batch changes"
        variables["mixing"] = variable("site", [run.mixing[s] for s in study.sites], mixing)
    attributes: dict[str, Any] = {"preset": study.config.preset}
    attributes |= {name: getattr(record, name) for name in ("mode", "objective", "derivative", "precision")}
    attributes |= {"samples": len(study.recorded), "saturation": record.saturation}
    coords = {
        "objective": list(study.config.objectives),
        "epoch": np.arange(1, study.config.train.epochs + 1),
        "phase": ["before", "after"],
    }
    return found.merge(xr.Dataset(variables, coords)).assign_attrs(attributes)


def recorded(run: Run) -> dict[str, Recorded]:
    """The tallies of a finished run's main objective, by site. Raises InputError for a run that recorded nothing."""
    study = run.study
    if study.config.record.mode == "none":
        raise InputError("record.mode is none: this run recorded no signs; name another --run-dir and a record.mode")
    tallies = run.tallies[study.config.record.objective]
    return {site: Recorded(tally, study.design.indices(site), study.label(site)) for site, tally in tallies.items()}


def average_signs(run: Run) -> xr.Dataset:
    """average_signs.nc: `average_sign(sample, neuron)` of all recorded pairs, or of a part where they are very many.

    It answers questions about single images, such as: which images does neuron 17 of dense2 push down?
    """
    study = run.study
    labels = np.asarray(run.dataset.train.labels)[study.recorded]
    rng = np.random.default_rng(study.config.train.seed)
    found = summaries.of_average_signs(recorded(run), study.recorded, labels, rng)
    return found.assign_attrs(preset=study.config.preset, objective=study.config.record.objective)


def _shown(run: Run, site: str) -> int:
    """The neuron of figure 1: the one of figure 2 where neurons are watched, else a random one."""
    if run.trajectories.watching and site in (watched := run.trajectories["close"].neurons):
        return int(watched[site][0])
    key = random_stream(run.study.config.train.seed, f"neuron shown of {site}")
    return int(jax.random.choice(key, run.study.design.indices(site)))


def _sign_health(run: Run) -> dict[str, dict[str, SignHealth]]:
    """The finished network's signs compared with double precision, on AUDITED recorded samples, dropout off."""
    study = run.study
    some = run.dataset.train.rows(study.recorded[:AUDITED])
    common = (study.model, run.state.train.variables, some.inputs, some.labels, study.sites)
    objectives: dict[str, PerSampleLoss] = {name: OBJECTIVES[name] for name in study.config.objectives}
    how = (study.config.record.derivative, study.config.record.precision)
    return auditing.sign_health(*common, objectives, OBJECTIVES["margin"], *how)


Counts = tuple[jax.Array, jax.Array]
"""Positive and negative recordings of every pair."""


def _counts_by_phase(run: Run, site: str, saturated: int) -> tuple[Counts, Counts]:
    """Counts of the recordings before and after saturation; zeros for a phase that did not happen."""
    tally = run.tallies[run.study.config.record.objective][site]
    total = (jnp.asarray(tally.positive), jnp.asarray(tally.negative))
    if saturated < 0:
        return total, (jnp.zeros_like(total[0]), jnp.zeros_like(total[1]))
    positive, negative = (jnp.asarray(counts) for counts in run.state.at_saturation[site])
    return (positive, negative), (total[0] - positive, total[1] - negative)


def summary(signs: xr.Dataset) -> str:
    """The main results as a table."""
    test = float(signs.test_accuracy[-1])
    lines = [
        f"{signs.attrs['preset']}: test accuracy {test:.2%}, {int(signs.recordings):,} recordings "
        f"({signs.attrs['mode']}, {signs.attrs['objective']})",
    ]
    rows = [["site", "samples", "constant", "before", "after", "low", "flips", "zeros", "wrong"]]
    for site in signs.site.values:
        at = signs.sel(site=site)
        by_phase = ("–" if np.isnan(share) else f"{share:.1%}" for share in at.constancy_by_phase.values)
        main = at.sel(objective=signs.attrs["objective"])
        rows.append(
            [
                str(at.label.item()),
                f"{at.recorded_samples.item():,}",
                f"{at.constancy.item():.1%}",
                *by_phase,
                f"{at.low_share.item():.1%}",
                f"{at.flips_per_recording.item():.2%}",
                f"{main.zero_share.item():.2%}",
                f"{main.wrong_sign.item():.3%}",
            ]
        )
    lines.append(aligned(*rows))
    saturated = int(signs.saturation_epoch)
    lines += untrusted(signs)
    lines.append(
        "constant: |average sign| > 0.9; before, after: of the recordings before and after training accuracy reached "
        f"{signs.attrs['saturation']:.0%} " + (f"(epoch {saturated})" if saturated > 0 else "(never)")
    )
    if signs.sizes["objective"] > 1:
        for name in signs.objective.values:
            at = signs.sel(objective=name)
            shares = (at[of].values for of in ("objective_constancy", "zero_share", "category_disagreement"))
            cells = (
                f"{label} {c:.2%} constant, {z:.2%} zero, {d:.2%} other category"
                for label, c, z, d in zip(signs.label.values, *shares, strict=True)
            )
            lines.append(f"{name}: {'; '.join(cells)}")
    return "\n".join(lines)


def untrusted(signs: xr.Dataset) -> list[str]:
    """A warning for each site and objective at which rounding decides too many signs."""
    return [
        f"warning: {wrong:.2%} of the signs at {site} ({objective}) are wrong in this arithmetic, at the end: "
        + ("record.precision exact" if signs.attrs["precision"] == "fast" else "record.objective margin")
        + " has exact signs"
        for objective, by_site in zip(signs.objective.values, signs.wrong_sign.values, strict=True)
        for site, wrong in zip(signs.site.values, by_site, strict=True)
        if wrong > auditing.LIMIT
    ]


@store.step("gradient_signs")
def report(run: Run) -> None:
    """Draw a finished run, print its summary, and write gradient_signs.nc last, so that it says that all is done."""
    doing("counting constant signs, and auditing some in double precision")
    signs, directory = dataset(run), run.directory
    train.report(run)
    doing("drawing figures 1 and 5")
    figures.write_figure(directory, "figure1", figures.average_sign_histograms(signs, one_neuron=True))
    figures.write_figure(directory, "figure5", figures.average_sign_histograms(signs))
    figures.write_figure(directory, "figure5_by_phase", figures.average_signs_by_phase(signs))
    figures.write_figure(directory, "constancy", figures.constancy_over_training(signs))
    if signs.sizes["objective"] > 1:
        figures.write_figure(directory, "objectives", figures.objectives(signs))
    doing("keeping the average sign of every image and neuron")
    averages, images = average_signs(run), run.dataset.train
    shown = jnp.asarray(averages.sample.values[: explorer.SAMPLES])
    figures.write_sheet(directory, explorer.SHEET, np.asarray(images.images[shown]), images.largest)
    store.write_dataset(directory / "average_signs.nc", averages)
    store.write_dataset(directory / "gradient_signs.nc", signs)
    print(summary(signs))
    print(f"results: {directory / 'gradient_signs.nc'}; figures: {directory / 'figures'}")


if __name__ == "__main__":
    main_of_runs("gradient_signs", __doc__ or "", report, summary)
