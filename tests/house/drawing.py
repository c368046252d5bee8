"""The rooms of the package and what each builds on, as a diagram: `python tests/house/drawing.py` prints it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ORDER = [
    "errors",
    "lazily",
    "precision",
    "config",
    "cluster",
    "store",
    "taps",
    "training",
    "codes",
    "recording",
    "runs",
    "paper",
]
"""Every room of the package; a room may import only from those before it."""


def imports(path: Path) -> set[str]:
    """Names of the package's rooms that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        package, *parts = node.module.split(".")
        if package in ("neuron_mech", "experiments"):
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
            found |= {"experiments"} if package == "experiments" else set()
    return found


def rooms() -> dict[Path, str]:
    """Every file of the package, and the room it is in."""
    files = (ROOT / "neuron_mech").rglob("*.py")
    return {path: path.relative_to(ROOT / "neuron_mech").parts[0].removesuffix(".py") for path in files}


def arrows() -> dict[str, set[str]]:
    """What each room imports, `experiments` last; without what it has by way of another room already."""
    found: dict[str, set[str]] = {room: set() for room in (*ORDER, "experiments")}
    for path, room in rooms().items():
        if room in found:
            found[room] |= imports(path) & set(ORDER) - {room}
    for path in (ROOT / "experiments").rglob("*.py"):
        found["experiments"] |= imports(path) & set(ORDER)

    def below(room: str) -> set[str]:
        return {deep for near in found[room] for deep in (near, *below(near))}

    return {room: {to for to in of if not any(to in below(via) for via in of)} for room, of in found.items()}


def drawing() -> str:
    """The diagram, in Mermaid's language."""
    lines = (f"    {room} --> {to}" for room, of in reversed(arrows().items()) for to in sorted(of, key=ORDER.index))
    return "\n".join(["```mermaid", "graph TD", *lines, "```"])


if __name__ == "__main__":
    print(drawing())
