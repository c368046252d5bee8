"""Contenders take turns in rounds; results are ratios within a round, with their range over rounds."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    repeats: int = 7
    """Rounds; in each, every contender runs once."""
    epoch_repeats: int = 3
    """Rounds of the contenders that take a whole epoch or segment; 0 leaves them out."""
    steps: int = 100
    """Training steps in one measurement, and in a segment."""
    samples: int | None = None
    """Samples in a recording; None: the preset's."""
    training_samples: int | None = None
    """Samples in an epoch; None: the data set's."""
    width: float = 1.0
    """Factor on the neurons of a hidden layer."""
    window_sites: tuple[str, ...] = ("stage0layer0", "stage2layer2")
    """Sites of the CNN above which windows are retrained, by name or glob."""
    only_windows: bool = False
    """Measure the retraining of windows only, for which PyTorch is not needed."""
    compiled: bool = False
    """Whether PyTorch's training step is also measured compiled; it needs a C++ compiler."""
    pause: float = 0.3
    """Seconds of rest before each measurement, since both libraries' idle threads spin for a while."""


def matmuls(size: int) -> dict[str, Callable[[], object]]:
    """Square matrix multiplies of float32, 2 x size^3 operations each, by both libraries."""
    import torch

    from experiments.benchmark import pytorch

    a = jax.random.normal(jax.random.key(0), (size, size))
    multiply = jax.jit(jnp.matmul)
    b = torch.from_numpy(np.array(a)).to(pytorch.DEVICE)

    def torch_multiply() -> None:
        torch.mm(b, b)
        pytorch.wait()

    return {"matmul jax": lambda: multiply(a, a).block_until_ready(), "matmul torch": torch_multiply}


def matmul_rate(times: dict[str, np.ndarray], size: int) -> np.ndarray:
    """GFLOP/s of `matmuls`, of the faster library in each round."""
    return 2 * size**3 / np.minimum(times["matmul jax"], times["matmul torch"]) / 1e9


def rounds(
    contenders: Mapping[str, Callable[[], object]], options: Options, what: str, repeats: int | None = None
) -> dict[str, np.ndarray]:
    """Seconds of each contender in each round; they take turns. A first round for warming up is not counted.

    There are `options.repeats` rounds where no number of them is given.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in tqdm(range((repeats or options.repeats) + 1), desc=what, unit="round"):
        for name, work in contenders.items():
            time.sleep(options.pause)
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in times.items()}


def line(label: str, values: np.ndarray, unit: str = "") -> str:
    """A line of the output: the label, and the median and range of the values over rounds."""
    return f"{label:44}  {np.median(values):7.3f}{unit} ({values.min():.3f} to {values.max():.3f})"


def first_times(contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each contender's first call, which compiles it."""
    first: dict[str, float] = {}
    for name, work in contenders.items():
        start = time.perf_counter()
        work()
        first[name] = time.perf_counter() - start
    return first


def compilation(first: dict[str, float], t: dict[str, np.ndarray]) -> str:
    """Seconds that each first call took longer than later ones, in words."""
    each = ", ".join(f"{name} {first[name] - np.median(t[name]):.1f} s" for name in first if "torch" not in name)
    return f"compilation: {each}"
