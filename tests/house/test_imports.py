"""The first answer comes soon: what takes long to import waits until it is used."""

import json
import subprocess
import sys

SLOW = ("grain", "h5py", "jinja2", "matplotlib", "orbax", "pandas", "scipy", "sklearn", "tensorflow_datasets", "xarray")


COMMANDS = ("train", "learning_dynamics", "binarization", "controls", "prepare_data", "report")
ARGUMENTS = (["--help"], ["digits", "--train.epohs", "3"], ["digits", "--train.epochs", "-1"])
MODULES = ("neuron_mech", "experiments.reproduce", "experiments.publish.command")

PROGRAM = f"""
import contextlib, importlib, io, json, runpy, sys
loaded = dict.fromkeys({SLOW})
def look(at):
    for name in loaded:
        if name in sys.modules:
            loaded[name] = loaded[name] or at
for module in {MODULES}:
    importlib.import_module(module)
    look(f"import {{module}}")
for name in {COMMANDS}:
    for arguments in {ARGUMENTS}:
        sys.argv = ["", *arguments]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                runpy.run_module(f"experiments.{{name}}", run_name="__main__", alter_sys=True)
            except SystemExit as stop:
                ended = stop.code
        assert ended == (0 if arguments == ["--help"] else 2), (name, arguments, ended)
        look(f"{{name}} {{' '.join(arguments)}}")
print(json.dumps(loaded))
"""
"""One process does it all: what none of it imports, none of it alone would."""


def test_modules_and_commands_answer_before_what_is_slow_is_imported():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(SLOW)
    assert {name: at for name, at in found.items() if at} == {}, "slow to import, and what was the first to do it"
