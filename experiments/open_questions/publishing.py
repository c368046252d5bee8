"""What a run of an open question leaves in results/open_questions/: options, verdicts, figures, and its result file."""

import importlib
from pathlib import Path

from experiments.publish.shrinking import copy, smaller
from neuron_mech import store
from neuron_mech.errors import InputError
from neuron_mech.paper import claims
from neuron_mech.store import files

JUDGED = ("early_layers", "activation_functions", "prioritisation")
"""Experiments with claims, by the name of their result file."""
NAMES = (*JUDGED, "later_tokens")

LARGEST = 1_000_000
"""Bytes of a result file that is published, at most."""


def publish(directory: Path, into: Path) -> None:
    """Publish a finished run; its verdicts are judged anew, from its result file.

    It goes to open_questions/NAME, or NAME-DATA where the data set is another than digits. Raises InputError where the
    run is not finished.
    """
    name = next((name for name in NAMES if (directory / f"{name}.nc").exists()), None)
    if name is None:
        raise InputError(f"{directory} is no finished run of {', '.join(NAMES)}: run one first, to its end")
    path = directory / f"{name}.nc"
    found = store.read_dataset(path)
    data = found.attrs.get("data", "digits")
    place = into / "open_questions" / (name if data == "digits" else f"{name}-{data}")
    pictures = {figure.name: smaller(figure) for figure in sorted((directory / "figures").glob("*.png"))}
    if name in JUDGED:
        judge = importlib.import_module(f"experiments.{name}.claims").judge
        claims.write(place, judge(found))
    for figure, picture in pictures.items():
        files.write_bytes(place / figure, picture)
    files.write_text(place / "options.json", files.read_text(directory / "options.json"))
    copy(path, place, LARGEST)
