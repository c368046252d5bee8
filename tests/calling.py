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
        else:
            extras = {
                "train": ("Options", "check_training"),
                "quantization": ("QuantizationOptions", "check"),
                "binarization": ("BinarizationOptions", "check"),
                "learning_dynamics": ("DynamicsOptions", "check"),
                "gradient_signs": ("Options", "check_recording"),
                "class_consistency": ("Options", "check_recording"),
            }.get(name, ())
            known = vars(command_line) | vars(module)
            command_line.main(name, module.__doc__, module.experiment, *(known[part] for part in extras))
        code = 0
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err
