"""Whether an experiment understands its arguments."""

import importlib

from experiments import export
from experiments.benchmark.ours import BENCHMARKED
from experiments.benchmark.rounds import Options
from experiments.command_line import Seeded, parse
from experiments.command_line.arguments import ask
from experiments.full_scale import command

OPTIONS = {
    "reproduce": "ReproduceOptions",
    "quantization": "QuantizationOptions",
    "binarization": "BinarizationOptions",
    "learning_dynamics": "DynamicsOptions",
    "precision": "PrecisionOptions",
}


def understand(name: str, arguments: list[str]) -> None:
    """Raise InputError where an experiment has no such options."""
    module = importlib.import_module(f"experiments.{name}")
    if name == "benchmark":
        assert arguments[0] in BENCHMARKED
        ask(Options, Options(), arguments[1:], name, "")
    elif name == "full_scale":
        command.parse(arguments)
    elif name == "export" and arguments[0] != "--unpack":
        ask(export.ExportOptions, export.ExportOptions(), arguments[2:], "export", "")
    elif name == "text":
        assert importlib.import_module("experiments.text.command").main
    elif name in ("export", "report", "prepare_data", "same_bits", "publish"):
        assert module.main
    else:
        parse(arguments, name, "", getattr(module, OPTIONS.get(name, ""), Seeded))
