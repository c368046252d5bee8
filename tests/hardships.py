"""What a run and its directory went through, how often, and what became of it: the README's table.

    python tests/hardships.py --tries 200

Each try is one or two commands in processes of their own, on a copy of a small run of digits. What may become of it:
*same*, it ends in the bytes of a run left alone; *said*, it is refused or stops in one line, with exit code 1 or 2.
What may not: *silent*, other bytes without a word; *page*, a traceback or anything else but that line; *lost*, what was
saved or is the user's is gone, or much memory was asked for.
"""

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import few_frames
import forking
import hostile_directories
from small_runs import REPRODUCED as SMALL

OUTCOMES = ("same", "said", "silent", "page", "lost")
MEMORY = 2**21
"""kB that a command may take at its largest."""

SIGNS = ("experiments.gradient_signs", *SMALL, "--save-seconds", "0")
ALL = ("experiments.reproduce", *SMALL, "--no-windows")


class Told(Exception):
    """An outcome that ends a try."""


def python(*arguments: str | Path) -> forking.Forked:
    """A command of ours that has ended. Raises Told where it ended in anything but success or one line."""
    done = forking.run(*(() if arguments[0] == "-c" else ("-m",)), *arguments, timeout=300)
    lines = [line for line in done.err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    if "Traceback" in done.err or done.returncode not in (0, 1, 2) or len(lines) != (done.returncode > 0):
        raise Told("page", f"{' '.join(done.args[1:])[:300]}\n{done.err[-1500:]}")
    if done.largest > MEMORY:
        raise Told("lost", "it took too much memory")
    return done


def digest(directory: Path, *kinds: str) -> dict[str, str]:
    """SHA-256 of the files of these kinds."""
    found = (path for kind in kinds for path in sorted(directory.rglob(kind)))
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


RESULTS = ("*.nc", "*.npy", "figures/*.png")
FINISHED = ("*.nc", "figures/*.png", "figures/*.svg", "claims.json", "table1.txt")


class Tries:
    """Small runs to be tried on, each made once where it is asked for, and one function for each hardship."""

    def __init__(self, scratch: Path, rng: random.Random):
        self.scratch, self.rng = scratch, rng

    @cached_property
    def alone(self) -> tuple[Path, float]:
        """A run left alone, and the seconds it took."""
        began, place = time.monotonic(), self.scratch / "plain"
        python(*SIGNS, "--run-dir", place)
        return place, time.monotonic() - began

    @cached_property
    def half(self) -> Path:
        """A run killed halfway."""
        place = self.scratch / "half"
        self._killed(place, lambda: len(self._steps(place)) >= 2)
        return place

    @cached_property
    def whole(self) -> Path:
        """A reproduced run."""
        python("-c", few_frames.REPRODUCE, *ALL[1:], "--run-dir", self.scratch / "whole")
        return self.scratch / "whole"

    def _steps(self, directory: Path) -> list[Path]:
        return [path for path in (directory / "checkpoints").glob("*") if path.name.isdecimal()]

    def _killed(self, directory: Path, when: Callable[[], bool]) -> None:
        running = forking.Forked("-m", *SIGNS, "--run-dir", directory)
        running.until(when)
        running.kill()

    def _copy(self, of: Path) -> Path:
        place = self.scratch / "try"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(of, place, symlinks=True)
        return place

    def _finish(self, directory: Path) -> str:
        """The same command again: to its end in the same bytes, or to a line."""
        if python(*SIGNS, "--run-dir", directory).returncode:
            return "said"
        return "same" if digest(directory, *RESULTS) == digest(self.alone[0], *RESULTS) else "silent"

    def kill(self) -> str:
        """SIGKILL at a random moment; then the same command."""
        place = self.scratch / "try"
        shutil.rmtree(place, ignore_errors=True)
        end = time.monotonic() + self.rng.uniform(0, self.alone[1])
        self._killed(place, lambda: time.monotonic() > end)
        ended = self._finish(place)
        return "lost" if ended == "said" else ended

    def _damage(self, path: Path) -> str:
        content, how = bytearray(path.read_bytes()), self.rng.choice(["flip", "cut", "empty", "remove", "noise"])
        if how == "flip" and content:
            content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
        elif how == "cut":
            content = content[: len(content) // 2]
        elif how == "noise":
            content = bytearray(self.rng.randbytes(len(content)))
        path.write_bytes(b"" if how == "empty" else content)
        if how == "remove":
            path.unlink()
        return how

    def damage_half(self) -> str:
        """One file of a run that was killed halfway is damaged; then the same command."""
        place = self._copy(self.half)
        self._damage(self.rng.choice([path for path in sorted(place.rglob("*")) if path.is_file()]))
        return self._finish(place)

    def damage_whole(self) -> str:
        """One file of a finished run is damaged; then `reproduce`."""
        place = self._copy(self.whole)
        path = self.rng.choice([path for path in sorted(place.rglob("*")) if path.is_file()])
        how = self._damage(path)
        if python(*ALL, "--run-dir", place).returncode:
            return "said"
        if digest(place, *FINISHED) == digest(self.whole, *FINISHED):
            return "same"
        raise Told("silent", f"{how} {path.relative_to(place)}")

    def full_disk(self) -> str:
        """A file system that fills up on the way; then one with room."""
        place = self.scratch / "disk"
        place.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self.rng.randrange(20, 1500)}k", "none", str(place)]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            raise Told("skipped", "it needs root, and a system that allows it")
        try:
            python(*SIGNS, "--run-dir", place / "run")
            subprocess.run(["mount", "-o", "remount,size=100m", str(place)], check=True)
            ended = self._finish(place / "run")
            return "lost" if ended == "said" else ended
        finally:
            subprocess.run(["umount", str(place)], check=True)

    def bad_input(self) -> str:
        """A field with a value that is none, or an absurd one."""
        place = self.scratch / "try"
        shutil.rmtree(place, ignore_errors=True)
        name, field = self.rng.choice(["gradient_signs", "learning_dynamics", "binarization", "quantization"]), ""
        whole = ("train.epochs", "train.batch-size", "train.seed", "record.every", "record.chunk", "record.samples")
        whole += ("watch.recordings", "model.depth", "seeds", "workers", "data.pixels", "record.neurons")
        other = ("train.learning-rate", "model.dropout", "model.width", "save-seconds", "patience", "train.drop-after")
        named = ("watch.named", "record.sites", "record.site-samples", "data.name", "train.epohs", "model.network")
        field = self.rng.choice([*whole, *other, *named])
        values = ["-1", "nan", "x", "", "1e400", "9" * 5000, "-" + "9" * 30, "\x1b[2J", "a\nb", "dense2:" + "9" * 5000]
        done = python(f"experiments.{name}", "digits", f"--{field}={self.rng.choice(values)}", "--run-dir", place)
        if not done.returncode:
            raise Told("silent", " ".join(done.args[1:])[:200])
        return "lost" if (place / "config.json").exists() else "said"

    def hostile(self) -> str:
        """Somebody else's run directory: shown, published, or gone on with."""
        place = self._copy(getattr(self, self.rng.choice(["half", "whole"])))
        mine = self.scratch / "mine" / "mine.txt"
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")
        attack = self.rng.choice(hostile_directories.ATTACKS)
        attack(self.rng, place, mine)
        into = self.scratch / "published"
        publish = "from experiments.command_line import exiting; from experiments.publish.command import publish\n"
        publish += "from pathlib import Path; import sys\n"
        publish += "exiting(lambda: publish(Path(sys.argv[1]), Path(sys.argv[2])))"
        command = self.rng.choice(["report", "publish", "resume"])
        asked = {"publish": ("-c", publish, place, into), "report": ("experiments.report", place)}
        done = python(*asked.get(command, (*SIGNS, "--run-dir", place)))
        if mine.read_text() != "mine" or os.listdir(mine.parent) != [mine.name] or "\x1b" in done.out + done.err:
            raise Told("lost", f"{attack.__name__} {command}")
        return "said" if done.returncode else "same"


HARDSHIPS = {
    "killed (SIGKILL) at a random moment, then the same command": Tries.kill,
    "one file of a half-finished run damaged": Tries.damage_half,
    "one file of a finished run damaged, then `reproduce`": Tries.damage_whole,
    "the disk full on the way, then room": Tries.full_disk,
    "a bad or absurd value in a command": Tries.bad_input,
    "somebody else's run directory, hostile": Tries.hostile,
}


def counted(
    tries: int, seed: int, only: str = "", say: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[str, Counter]]:
    """(hardship, {outcome: how many}), one after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        trying = Tries(Path(scratch), random.Random(seed))
        for name, hardship in HARDSHIPS.items():
            if only not in hardship.__name__:
                continue
            counts = Counter[str]()
            for _ in range(tries):
                try:
                    outcome = hardship(trying)
                except Told as told:
                    outcome = told.args[0]
                    say(f"{name}: {outcome}: {told.args[1]}")
                except subprocess.TimeoutExpired as late:
                    outcome = "lost"
                    say(f"{name}: {late}")
                counts[outcome] += 1
            yield name, counts


HEAD = f"| what was tried | tries | {' | '.join(OUTCOMES)} |\n{'|---' * (2 + len(OUTCOMES))}|"


def row(name: str, counts: Counter) -> str:
    """A row of the table, in Markdown."""
    total = sum(counts[outcome] for outcome in OUTCOMES)
    return f"| {name} | {total} | {' | '.join(str(counts[outcome]) for outcome in OUTCOMES)} |"


def main() -> None:
    """The command line."""
    asking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("--tries", type=int, default=5, help="of each hardship")
    asking.add_argument("--seed", type=int, default=0, help="of what is tried")
    asking.add_argument("--only", default="", help="hardships whose function's name has this in it")
    asked = asking.parse_args()
    bad = 0
    print(HEAD)
    for name, counts in counted(asked.tries, asked.seed, asked.only, lambda line: print(line, file=sys.stderr)):
        print(row(name, counts), flush=True)
        bad += counts["silent"] + counts["page"] + counts["lost"]
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
