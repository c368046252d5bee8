"""Everything the paper shows, for one preset or, where PRESET is all, for each, from training to the verdicts.

Trains and records, does every experiment that is not done yet, judges the paper's eleven claims by the results, and
writes claims.json and report.html. After an interruption the same command goes on; once all is done it does nothing.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from experiments import (
    binarization,
    class_consistency,
    controls,
    equal_displacement,
    gradient_signs,
    learning_dynamics,
    quantization,
    report,
)
from experiments.command_line import Kind, Options, Seeded, Session, check_recording, exiting, held, parse, timed
from experiments.command_line.progress import Overall, expected
from experiments.export import Exporting, ExportOptions
from neuron_mech import store
from neuron_mech.cluster import devices
from neuron_mech.codes import sources
from neuron_mech.config import PRESETS
from neuron_mech.errors import InputError, Interrupted
from neuron_mech.paper import claims
from neuron_mech.runs import Run, subjects
from neuron_mech.store import parameters, pieces


@dataclass(frozen=True)
class ReproduceOptions(Seeded):
    """Options of this experiment."""

    controls: bool = False
    """Train the controls of the signs too: random labels, other ways of recording, other numerics. It takes about five
    times as long as the training."""
    windows: bool = True
    """Retrain through every window (figure 4), the longest part where the network is large."""
    export: Path | None = None
    """Keep an export in this file (NAME.zip) and beside it (`experiments.export`): it is made after each step, when
    stopped, and during binarization at most every save-seconds."""
    export_without: tuple[str, ...] = ()
    """Files that are not exported, by name or glob, such as report.html, which `experiments.report` makes anew."""


def of_each_run(session: Session[ReproduceOptions]) -> dict[str, Callable[[Run], None]]:
    """The steps that are done with each seed's run, by name: a step's result file has the same name."""
    options = session.options
    if session.config.model.weights is not None:
        return {}  # not trained here: nothing was recorded
    steps: dict[str, Callable[[Run], None]] = {"gradient_signs": gradient_signs.report}
    watch = session.config.watch
    watched = watch.recordings and session.config.record.mode in ("eval", "train")
    if watched:
        steps["learning_dynamics"] = learning_dynamics.report
    steps["class_consistency"] = class_consistency.report
    if watched and watch.weights:
        steps["equal_displacement"] = equal_displacement.report
    if options.controls:
        steps["controls"] = lambda run: controls.report(run, _options(controls.ControlOptions, options))
    return steps


def of_all_runs(session: Session[ReproduceOptions], saved: Callable[[], None]) -> dict[str, Callable[[], None]]:
    """The steps that are done once, with all seeds together; `saved` is called after every group of windows."""
    options = session.options
    quantized = _options(quantization.QuantizationOptions, options)
    codes = Session(session.config, quantized, session.directory)
    after = Session(session.config, replace(quantized, replace="activation"), session.directory)
    windows = Session(session.config, _options(binarization.BinarizationOptions, options), session.directory)
    steps = {
        "quantization": lambda: quantization.experiment(codes),
        "quantization_activation": lambda: quantization.experiment(after),
    }
    return steps | ({"binarization": lambda: binarization.experiment(windows, saved)} if options.windows else {})


PARTS = {"gradient_signs": ("train", "gradient_signs")}
"""Steps that do another one too, with the names under which both are noted."""


def missing(session: Session[ReproduceOptions], step: str, directory: Path, seeds: int) -> str | None:
    """Why a step must be done in a directory, for this number of seeds; "" where it never was, None where it need not.

    A step whose files are missing, or do not have the noted checksums, is done again.
    """
    path = directory / f"{step}.nc"
    for part in PARTS.get(step, (step,)):
        lost = store.lost(directory, part)
        if lost is None:
            return "it was not finished" if store.exists(path) else ""
        if lost:
            return ", ".join(lost)
    if not step.startswith("quantization") and step != "binarization":
        return None
    found = store.read_dataset(path)
    wanted: dict[str, list] = {"seed": [session.config.train.seed + k for k in range(seeds)]}
    if step == "binarization":
        wanted["window_center"] = list(binarization.BinarizationOptions().centers)
    if any(not np.isin(values, found[name]).all() for name, values in wanted.items()):
        return ""
    return "" if step == "binarization" and np.isnan(found.accuracy_by_seed.sel(wanted)).any() else None


def experiment(session: Session[ReproduceOptions]) -> None:
    """Do what is missing, judge the claims, and write the report."""
    options = session.options
    first, directory = session.config.train.seed, session.directory
    claims.findings(directory)  # refuses result files of another format, before anything is trained
    export = Exporting(directory, options.export, ExportOptions(leave_out=options.export_without), options.save_seconds)
    each, together = of_each_run(session), of_all_runs(session, export.now_and_then)
    places = [directory, *(directory / f"seed{first + k}" for k in range(1, options.seeds))]
    todo = {step for step in each for place in places if missing(session, step, place, 1) is not None}
    todo |= {step for step in together if missing(session, step, directory, options.seeds) is not None}
    if parameters.exported(directory):
        for step in [step for step in each if step in todo]:
            print(f"left out: {step}: {directory} is an export, without the tallies it needs", file=sys.stderr)
        todo -= set(each)
    elif "binarization" in todo:
        _check_projections(session)
    overall = _plan(session, places, each, together, todo)
    print(f"{session.config.preset} in {directory}, on {devices.named()}; to do: {'' if overall.steps else 'nothing'}")
    print(overall.table(), flush=True)
    try:
        if todo & set(each):
            for run in session.seeds():
                export()
                for step, do in each.items():
                    if (why := missing(session, step, run.directory, 1)) is not None:
                        with _announced(overall, directory, step, why, run):
                            do(run)
                        export()
        for step, do_all in together.items():
            if step in todo:
                if step == "binarization":
                    report.finish(directory)  # the verdicts so far: the windows can take hours
                    export()
                why = missing(session, step, directory, options.seeds) or ""
                with _announced(overall, directory, step, why):
                    do_all()
                export()
    except Interrupted:
        export()
        raise
    report.finish(directory, changed=bool(todo))
    export()


def _check_projections(session: Session[ReproduceOptions]) -> None:
    """Refuse, before anything is trained, random projections to sites whose positions do not divide the images."""
    dataset, recorded = subjects.outline(session.config, session.options.data_dir, session.options.workers)
    height, width, channels = dataset.test.blank.inputs.shape[1:]
    sources.check_projection((height, width, channels), recorded)


def _plan(
    session: Session[ReproduceOptions],
    places: Sequence[Path],
    each: Collection[str],
    together: Collection[str],
    todo: Collection[str],
) -> Overall:
    """The steps to be done, in order, with the time that each took in the published run of this preset."""
    first, preset = session.config.train.seed, PRESETS[session.config.preset]
    steps = [
        (step, f"seed {first + k}")
        for k, place in enumerate(places)
        for step in each
        if step in todo and missing(session, step, place, 1) is not None
    ]
    steps += [(step, "") for step in together if step in todo]
    took = expected(session.config.preset)
    took |= {step: len(places) * took[step] for step in together if step in took}
    return Overall(steps, took, session.config.train.epochs / preset.train.epochs)


@contextmanager
def _announced(overall: Overall, directory: Path, step: str, why: str, run: Run | None = None) -> Iterator[None]:
    seed = f", seed {run.study.config.train.seed}" if run else ""
    with overall.step() as words, timed(directory, step):
        print(f"\n{words}{step}{seed}" + f", again: {why}" * bool(why), flush=True)
        yield


def _options(kind: type[Kind], options: Options) -> Kind:
    """Another experiment's options: its defaults, with the shared options taken from `options`."""
    return kind(**{f.name: getattr(options, f.name) for f in fields(Seeded)})


def reproduce(arguments: Sequence[str]) -> None:
    """Reproduce the preset that the command line names first."""
    config, options = parse(arguments, "reproduce", __doc__ or "", ReproduceOptions)
    if config.model.weights is None:
        check_recording(options)
    if options.controls:
        controls.check(_options(controls.ControlOptions, options))
    if options.distributed is not None:
        raise InputError(
            f"--distributed is {options.distributed}, but one process makes verdicts and report: run the experiments "
            "with it, and reproduce without"
        )
    if options.export is not None:
        pieces.check(options.export)
    with held(config, options) as session:
        experiment(session)


def everything(arguments: Sequence[str]) -> None:
    """Reproduce every preset whose data is prepared, in runs/PRESET, and print which were left out."""
    for option, one in (("--run-dir", "directory"), ("--export", "file")):
        if option in arguments:
            raise InputError(f"{option} names one {one}, but `all` uses one a preset: leave it out, or name a preset")
    left_out = []
    for preset in PRESETS:
        print(f"\n=== {preset}", flush=True)
        try:
            reproduce([preset, *arguments])
        except InputError as error:
            left_out.append(f"{preset}: {error}")
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if len(left_out) == len(PRESETS):
        raise InputError("nothing could be reproduced")


def main() -> None:
    """The command line: a preset, or all."""
    arguments = sys.argv[1:]
    exiting(lambda: everything(arguments[1:]) if arguments[:1] == ["all"] else reproduce(arguments))


if __name__ == "__main__":
    main()
