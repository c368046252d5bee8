"""The table of steps: which experiments, with which options, for how long. Nothing is computed here."""

import math
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from experiments.full_scale.runner import Command, Step

Name = Literal["check", "cifar10", "windows", "speed", "mnist", "resnet"]
NAMES: tuple[Name, ...] = get_args(Name)
"""The steps, in order of worth."""

CNNS, MLPS = ("cifar10-relu", "cifar10-linear"), ("mnist-relu", "mnist-sigmoid")
SITES = ("stage0layer0", "stage2layer0", "stage2layer2", "stage3layer2")
"""Those of the paper's figures and of its table 1, which differ in one."""

LEFT = ("report.html", "*.mp4")
"""What is not exported: the report is made anew at home, and videos are large."""

AS_IT_LIKES = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=false"}
"""XLA need not give the same bits at every start: what that is worth in time."""

TINY = (
    *("--model.width", "0.0625", "--data.train-images", "320", "--data.test-images", "100", "--train.epochs", "2"),
    *("--record.samples", "50", "--record.every", "2", "--watch.recordings", "4", "--watch.wide-recordings", "2"),
    *("--watch.wide-samples", "50"),
)
"""What makes a rehearsal of a run."""

TINY_OF = {
    "benchmark": (
        *("--width", "0.0625", "--training-samples", "2700", "--samples", "40", "--steps", "2", "--repeats", "1"),
        *("--epoch-repeats", "1", "--pause", "0"),
    ),
    "binarization": (*TINY, "--centers", "25", "75"),
    "precision": (*TINY, "--samples", "10"),
}
"""The same for experiments that have options of their own."""


@dataclass(frozen=True)
class Table:
    """The steps for one place to run in and one to bring results to."""

    out: Path
    run_dir: Path
    data_dir: Path | None
    rehearse: bool

    def steps(self) -> dict[Name, Step]:
        """All of them, in order of worth."""
        seeds = ("--seeds", "2" if self.rehearse else "5")
        found: dict[Name, Step] = {
            "check": Step(300, self.check(), scratch=self.run_dir / "check"),
            "cifar10": Step(1200, tuple(self.reproduce(name, "--no-windows") for name in CNNS), at_once=True),
            "windows": Step(1200, (*self.unpacked(), *self.windows())),
            "speed": Step(420, self.speed()),
            "mnist": Step(900, tuple(self.reproduce(name, *seeds) for name in MLPS), at_once=True),
            "resnet": Step(900, (self.reproduce("cifar10-resnet50", "--no-windows"),)),
        }
        # A rehearsal is to come to the end of each, however slow its processor is.
        return {name: replace(step, seconds=math.inf) for name, step in found.items()} if self.rehearse else found

    def check(self) -> tuple[Command, ...]:
        """Wrong signs after an epoch; 200 steps thrice, once stopped midway and gone on with; and once as XLA likes."""
        place = self.run_dir / "check"
        few = ("--train.epochs", "1", "--watch.recordings", "0")
        short = (
            *("--data.train-images", "6400", "--record.every", "20", "--record.samples", "500"),
            *("--save-seconds", "0"),
        )
        signs = self.on_run("precision", CNNS[0], place / "signs", *few)
        runs = {
            name: self.on_run("train", CNNS[0], place / name, *few, *short)
            for name in ("whole", "again", "resumed", "free")
        }
        return (
            replace(signs, then=("cp", str(place / "signs" / "precision.nc"), str(self.out))),
            *(runs["whole"], runs["again"]),
            replace(runs["resumed"], stop_at=place / "resumed" / "checkpoints" / "4"),
            runs["resumed"],
            replace(runs["free"], environment=AS_IT_LIKES),
            experiment("same_bits", *(str(place / name) for name in runs)),
        )

    def windows(self) -> tuple[Command, ...]:
        """Windows of one site after another, each exported when it ends."""
        controlled = ("--sources", "trained", "untrained")
        sites = {"stage3layer2": (), "stage2layer0": controlled, "stage0layer0": controlled}
        return tuple(
            replace(
                self.on_run("binarization", name, self.run_dir / name, "--sites", site, *sources),
                then=experiment(
                    "export", str(self.run_dir / name), str(self.exported(name)), "--leave-out", *LEFT
                ).arguments,
            )
            for site, sources in sites.items()
            for name in CNNS
        )

    def unpacked(self) -> tuple[Command, ...]:
        """On another machine than the networks were trained on: what came home of them."""
        return tuple(
            experiment("export", "--unpack", str(self.exported(name)), str(self.run_dir / name))
            for name in CNNS
            if self.exported(name).exists() and not (self.run_dir / name).exists()
        )

    def speed(self) -> tuple[Command, ...]:
        """Beside PyTorch, whose `torch.compile` needs a C compiler."""
        tiny = TINY_OF["benchmark"] if self.rehearse else ()
        compiled = ("--compiled",) if shutil.which("cc") and not self.rehearse else ()
        both = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}  # PyTorch is in the same process
        free = ("benchmark", "cifar10-relu", *tiny, "--epoch-repeats", "0")
        return (
            *(
                replace(experiment("benchmark", name, *tiny, *compiled), environment=both)
                for name in (CNNS[0], MLPS[0])
            ),
            replace(experiment(*free), environment=both | AS_IT_LIKES),
        )

    def reproduce(self, preset: str, *options: str) -> Command:
        """A preset from nothing to its verdicts, exported as it gets on."""
        export = ("--export", str(self.exported(preset)), "--export-without", *LEFT)
        return self.on_run("reproduce", preset, self.run_dir / preset, "--save-seconds", "200", *export, *options)

    def on_run(self, name: str, preset: str, run_dir: Path, *options: str) -> Command:
        """An experiment on a run, with what all experiments on it must agree in."""
        of_cnn = ("--record.chunk", "1000", "--record.sites", *SITES) if preset in CNNS else ()
        data_dir = ("--data-dir", str(self.data_dir)) if self.data_dir else ()
        tiny = TINY_OF.get(name, TINY) if self.rehearse else ()
        return experiment(name, preset, "--run-dir", str(run_dir), *data_dir, *of_cnn, *options, *tiny)

    def exported(self, preset: str) -> Path:
        """The first piece of a run's export."""
        return self.out / f"{preset}.zip"


def experiment(name: str, *arguments: str) -> Command:
    """An experiment's command line."""
    return Command((sys.executable, "-m", f"experiments.{name}", *arguments))
