"""What exactness costs where float32 is multiplied in less than float32: recordings and products in each arithmetic."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax.lax import Precision as Lax

from experiments.benchmark.ours import Ours
from experiments.benchmark.rounds import Options, line, matmul_rate, matmuls, rounds
from neuron_mech.precision import multiplying, rewritten
from neuron_mech.precision.rewriting import Multiply
from neuron_mech.recording.design import Design, Moment, Tallies
from neuron_mech.recording.recorder import Recorder


def product_lines(probe: Ours, hooks: Any, tuned: Any, size: int, options: Options) -> list[str]:
    """A recording exact, fast, in float32, beside PyTorch's; matrix multiplies of `size` in TF32 and in float32."""
    from experiments.benchmark import pytorch

    config = probe.study.config
    fast = Ours(replace(config, record=replace(config.record, precision="fast")), probe.dataset)
    record = float32_recorder(fast.study.design)

    def recorded() -> None:
        here = fast.recorder
        assert isinstance(here, Recorder)
        tallies = record(here.tallies, here.samples, Moment(fast.state.variables, fast.state.step))
        fast.recorder = jax.block_until_ready(here.replace(tallies=tallies))

    def in_float32(work: Callable[[], object]) -> Callable[[], None]:
        def done() -> None:
            pytorch.multiply("float32")
            with multiplying("float32"):
                work()
            pytorch.multiply(config.train.precision)

        return done

    short = {"hooks": hooks.record, "tuned": tuned.record, **matmuls(size)}
    full = {f"{name}, float32": in_float32(work) for name, work in short.items()}
    exact = {"exact": probe.record, "fast": fast.record, "float32": recorded}
    t = rounds(exact | short | full, options, "products")
    rates = {"TF32": matmul_rate(t, size), "float32": matmul_rate({n: t[f"{n}, float32"] for n in matmuls(size)}, size)}
    ours, theirs = {"fast": "fast", "float32": "in float32"}, ("hooks", "tuned")
    torch = {name: f"PyTorch {name}, TF32" for name in theirs}
    torch |= {f"{name}, float32": f"PyTorch {name}, float32" for name in theirs}
    beside = ours | {f"{name}, float32": f"{name} in float32" for name in theirs}
    return [
        *(line(f"{name} matrix multiply", rate, " GFLOP/s") for name, rate in rates.items()),
        *(line(f"recording, {said}", t[name], " s") for name, said in ({"exact": "exact"} | ours | torch).items()),
        *(line(f"recording, {said} / exact", t[name] / t["exact"]) for name, said in beside.items()),
    ]


def float32_recorder(design: Design) -> Callable[..., Tallies]:
    """(tallies, samples, moment) -> tallies, by the device's own float32 products, not by shorter ones."""

    def product(_: Any, as_it_is: Multiply, left: jax.Array, right: jax.Array) -> jax.Array:
        return as_it_is(left, right, precision=(Lax.HIGHEST, Lax.HIGHEST))

    return jax.jit(rewritten(design.record, product), donate_argnums=0)
