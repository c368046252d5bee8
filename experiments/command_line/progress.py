"""Progress of a command with several steps: the current step, their number, and an estimate of the time left."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PUBLISHED = Path(__file__).parent.parent / "results"
"""Published runs, whose run.json has the seconds that each step took."""

STEPS = {
    "gradient_signs": "train and record; figures 1 and 5",
    "learning_dynamics": "watch neurons learn; figures 2, 6 and 7, videos",
    "class_consistency": "classes and categories; figure 8, atlas",
    "controls": "random labels and other ways of recording",
    "quantization": "two values a neuron; figure 3, table 1",
    "binarization": "one window of a neuron's range; figure 4",
}
"""A short description of each step."""


def doing(what: str) -> None:
    """Print what is done now, where no progress bar says so."""
    print(f"  {what} ...", flush=True)


def spoken(seconds: float) -> str:
    """A duration in words: 40 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def expected(preset: str) -> dict[str, float]:
    """Seconds of each step, for one seed, in the preset's published run; {} where none is published."""
    path = PUBLISHED / preset / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        seconds = {step: float(took) / len(run["seeds"]) for step, took in run["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return {}
    # The first step that needs the trained network includes the training.
    return {**seconds, "gradient_signs": seconds.get("gradient_signs", 0.0) + seconds.get("training", 0.0)}


class Overall:
    """The steps of a command, the current one, and an estimate of the time left.

    The estimate is `took`, the seconds that each step took elsewhere, times the ratio of here to there over the steps
    done so far. Where `took` lacks a step there is no estimate.
    """

    def __init__(self, steps: Sequence[tuple[str, str]], took: Mapping[str, float], weight: float = 1.0):
        """`steps` are (name, seed in words); `weight` is a factor on `took`, such as 0.2 for fewer epochs."""
        self.steps, self.took, self.weight = list(steps), took, weight
        self.done = 0
        self.spent = self.known = 0.0

    def table(self) -> str:
        """The steps, one a line: number, name, description, and expected time."""
        lines = []
        for number, (name, seed) in enumerate(self.steps, 1):
            about = f"about {spoken(self._expected(name))}" if name in self.took else ""
            lines.append(f"  {number:2} {name:18} {seed:8} {STEPS.get(name, ''):50} {about}".rstrip())
        if self.left() is not None:
            lines.append(f"  about {spoken(self.left() or 0)} in all, by what the published run took")
        return "\n".join(lines)

    def left(self) -> float | None:
        """Expected seconds of the remaining steps; None where that is not known."""
        names = [name for name, _ in self.steps[self.done :]]
        if not names or any(name not in self.took for name in names):
            return None
        ratio = self.spent / self.known if self.known else 1.0
        return ratio * sum(map(self._expected, names))

    @contextmanager
    def step(self) -> Iterator[str]:
        """Time the next step; yields the words that begin its line."""
        if self.done == len(self.steps):  # a step that was not planned: its files were lost only now
            yield ""
            return
        name, _ = self.steps[self.done]
        left = self.left()
        began = time.monotonic()
        yield f"[{self.done + 1} of {len(self.steps)}] " + (f"about {spoken(left)} left in all: " if left else "")
        self.spent += time.monotonic() - began
        self.known += self._expected(name)
        self.done += 1

    def _expected(self, name: str) -> float:
        return self.weight * self.took.get(name, 0.0)
