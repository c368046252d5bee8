"""`python -m experiments`: which experiments there are."""

import ast
from collections.abc import Iterator
from pathlib import Path

from neuron_mech.config import PRESETS

GROUPS = {
    "Everything": ("reproduce", "report", "composites", "export", "publish"),
    "The paper's experiments": (
        "train",
        "gradient_signs",
        "learning_dynamics",
        "class_consistency",
        "quantization",
        "binarization",
    ),
    "The paper's open questions": ("early_layers", "activation_functions", "prioritisation"),
    "Beyond the paper": ("controls", "equal_displacement", "precision", "text"),
    "Data and machines": ("prepare_data", "benchmark", "same_bits", "full_scale"),
}
"""What belongs together. A launchable module that no group names is listed at the end."""

HERE = Path(__file__).parent


def launchable() -> Iterator[tuple[str, str]]:
    """(name, what it does: the first line of its docstring) of everything that `python -m experiments.NAME` runs."""
    for path in sorted((*HERE.glob("*.py"), *HERE.glob("*/__main__.py"))):
        source = path.read_text(encoding="utf-8")
        package = path.name == "__main__.py"
        if path.parent == HERE and (package or 'if __name__ == "__main__"' not in source):
            continue
        if package:
            source = path.with_name("__init__.py").read_text(encoding="utf-8")
        said = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        yield path.parent.name if package else path.stem, said


def listing() -> str:
    """The experiments by group, one a line, and the presets they take."""
    known = dict(launchable())
    rest = tuple(name for name in known if not any(name in names for names in GROUPS.values()))
    lines = ["usage: python -m experiments.NAME PRESET [--section.field value ...]", ""]
    for title, names in {**GROUPS, **({"More": rest} if rest else {})}.items():
        lines += [f"{title}:", *(f"  {name:18} {known[name]}" for name in names), ""]
    lines.append(f"PRESET is one of {', '.join(PRESETS)}.")
    lines.append("`python -m experiments.NAME --help` lists the fields of a run. Begin with: reproduce digits")
    return "\n".join(lines)


if __name__ == "__main__":
    print(listing())
