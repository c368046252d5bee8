"""An experiment's command line, called in this process."""

import importlib
import sys

from experiments import command_line


def call(monkeypatch, capsys, name, *arguments):
    """(exit code, stdout, stderr) of `python -m experiments.NAME ARGUMENTS`, in this process."""
    module = importlib.import_module(
        "experiments.benchmark.comparison" if name == "benchmark" else f"experiments.{name}"
    )
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    work = getattr(module, "main", None)
    try:
        if name in ("prepare_data", "benchmark"):
            command_line.exiting(work)
        elif options := {
            "quantization": "QuantizationOptions",
            "binarization": "BinarizationOptions",
            "learning_dynamics": "DynamicsOptions",
        }.get(name):
            command_line.main(name, module.__doc__, module.experiment, getattr(module, options), module.check)
        else:
            check = command_line.check_training if name == "train" else command_line.check_recording
            command_line.main_of_runs(name, module.__doc__, module.report, module.summary, check)
        code = 0
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err
