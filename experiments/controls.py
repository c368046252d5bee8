"""Are signs as constant with nothing to learn, or when they are recorded otherwise? (Controls of section 4.1.)

Trains the same network again, once for each control, in RUN_DIR/controls/NAME, and compares constancy. random-labels:
labels dealt at random, without dropout, trained until they are fitted; true-labels: the same training with the true
ones, to compare it with. train-mode: recorded with dropout and batch statistics on; online: the training steps' own
gradients; objectives: through float32 log-softmax, and as Keras clipped probabilities in 2017. Writes controls.nc and
figures/controls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np

from experiments import gradient_signs
from experiments.command_line import Seeded, Session, check_recording, main
from neuron_mech import store
from neuron_mech.config import WHOLE, Config, Limits, Objective, check_once
from neuron_mech.errors import InputError
from neuron_mech.lazily import xarray as xr
from neuron_mech.paper import figures
from neuron_mech.runs import Run, run
from neuron_mech.store import about

Control = Literal["random-labels", "true-labels", "train-mode", "online", "objectives"]
CONTROLS: tuple[Control, ...] = get_args(Control)


@dataclass(frozen=True)
class ControlOptions(Seeded):
    """Options of this experiment."""

    controls: tuple[Control, ...] = CONTROLS
    """Which controls to run. Others can be added later."""
    longer: int = 4
    """Factor on the epochs of random-labels and true-labels, since random labels take longer to fit. Recordings are as
    many times further apart, so that their number stays about the same."""


def changed(config: Config, control: Control, longer: int) -> Config:
    """The config of a control's run: the run's own config, with the control's changes."""
    train, record = config.train, config.record
    config = replace(config, watch=replace(config.watch, recordings=0))
    if control in ("random-labels", "true-labels"):
        labels: Literal["random", "true"] = "random" if control == "random-labels" else "true"
        return replace(
            config,
            data=replace(config.data, labels=labels, augment=False),
            model=replace(config.model, dropout=None if config.model.dropout is None else 0.0),
            train=replace(train, epochs=longer * train.epochs),
            record=replace(record, every=longer * record.every),
        )
    if control == "objectives":
        kinds: tuple[Objective, ...] = ("cross_entropy", "keras2017")
        others = tuple(kind for kind in kinds if kind != record.objective)
        return replace(config, record=replace(record, compare_objectives=others))
    mode: Literal["train", "online"] = "online" if control == "online" else "train"
    return replace(config, record=replace(record, mode=mode, objective="margin", compare_objectives=()))


def rows(control: str, signs: xr.Dataset) -> Iterator[tuple[str, xr.Dataset]]:
    """(name, constancy and accuracy) of a control; for `objectives`, of each compared objective."""
    common = {name: signs[name].isel(epoch=-1, drop=True) for name in ("train_accuracy", "test_accuracy")}
    whole = ("constancy_by_phase", "saturation_epoch", "recordings", "neuron_constancy")
    common |= {name: signs[name] for name in whole}
    if control != "objectives":
        yield control, xr.Dataset({"constancy": signs.constancy, **common})
        return
    # By phase and by neuron, constancy is known for the main objective alone.
    common |= {name: part.where(False) for name, part in common.items() if "constancy" in name}
    for objective in signs.objective.values[1:]:
        constancy = signs.objective_constancy.sel(objective=objective, drop=True)
        yield str(objective), xr.Dataset({"constancy": constancy, **common})


def dataset(run: Run, signs: xr.Dataset, by_control: dict[str, xr.Dataset]) -> xr.Dataset:
    """controls.nc: constancy(control, site) and whether labels were fitted; `as-it-is` is the run itself."""
    found = [*rows("as-it-is", signs), *(row for name, other in by_control.items() for row in rows(name, other))]
    names = xr.DataArray([name for name, _ in found], dims="control", name="control")
    kept = [part.drop_vars("objective", errors="ignore") for _, part in found]
    together = xr.concat(kept, names, combine_attrs="override")
    fitted = together.train_accuracy >= run.study.config.record.saturation
    together["fitted"] = fitted.assign_attrs(about("1", "whether training accuracy reached record.saturation"))
    described = {
        "constancy": "share of pairs with |average sign| > 0.9",
        "constancy_by_phase": "constancy of the recordings before and after training accuracy saturated",
        "train_accuracy": "accuracy at the end, on the labels trained on",
        "test_accuracy": "test accuracy at the end",
    }
    for name, text in described.items():
        together[name] = together[name].assign_attrs(about("1", text))
    return together.assign_attrs(preset=run.study.config.preset)


def summary(found: xr.Dataset) -> str:
    """Constancy of every control beside the run's own."""
    sites = [str(label) for label in found.label.values]
    lines = [
        f"{found.attrs['preset']}: constant signs, and after saturation in brackets",
        f"{'':16}" + "".join(f"{site:>24}" for site in sites) + f"{'training accuracy':>20}",
    ]
    for control in found.control.values:
        at = found.sel(control=control)
        cells = ""
        for share, after in zip(at.constancy.values, at.constancy_by_phase.sel(phase="after").values, strict=True):
            cells += f"{f'{share:.1%} ({after:.1%})' if np.isfinite(after) else f'{share:.1%}':>24}"
        said = f"{at.train_accuracy.item():.2%}" + ("" if at.fitted.item() else ", not fitted")
        lines.append(f"{control!s:16}{cells}{said:>20}")
    return "\n".join(lines)


def experiment(session: Session[ControlOptions]) -> None:
    """Run every control of every seed, write the comparison and print it."""
    session.each("controls", partial(report, options=session.options), summary)


@store.step("controls")
def report(whole: Run, options: ControlOptions) -> None:
    """Run the controls of a finished run, draw them, print them, and write controls.nc, last."""
    config, directory = whole.study.config, whole.directory
    by_control: dict[str, xr.Dataset] = {}
    for control in options.controls:
        at, of = directory / "controls" / control, changed(config, control, options.longer)
        with store.opened(at, of):
            by_control[control] = gradient_signs.dataset(run(of, at, options.data_dir, options.save_seconds))
    found = dataset(whole, gradient_signs.dataset(whole), by_control)
    figures.write_figure(directory, "controls", figures.controls(found))
    store.write_dataset(directory / "controls.nc", found)
    print(summary(found))
    print(f"results: {directory / 'controls.nc'}; figures: {directory / 'figures'}")


def check(options: ControlOptions) -> None:
    """Refuse, before anything is trained, options for which there are no controls."""
    check_recording(options)
    if options.data.labels == "random":
        raise InputError("data.labels is random, but this experiment compares with random labels: leave it at true")
    Limits(1, 1000, WHOLE).check("--longer", options.longer)
    if not options.controls:
        raise InputError(f"--controls is empty: name at least one of {', '.join(CONTROLS)}")
    check_once("--controls", options.controls)
    for control in options.controls:
        changed(options.config("digits"), control, options.longer)  # raises InputError for a config that cannot be


if __name__ == "__main__":
    main("controls", __doc__ or "", experiment, ControlOptions, check)
