"""What somebody else may have put into a run directory: links, pipes, the absurd, and text that is a command."""

import json
import os
import random
import shutil
from pathlib import Path

import h5py


def some(rng: random.Random, place: Path) -> Path:
    """Where a file of a run is, or could be."""
    names = [
        "claims.json",
        "table1.txt",
        "report.html",
        ".report.part.html",
        ".claims.part.json",
        "provenance.json",
    ]
    names += ["figures/figure5.png", ".lock", ".holder", "checkpoints-damaged", "seed1", "config.json", "train.nc"]
    path = place / rng.choice(names)
    path.parent.mkdir(exist_ok=True)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return path


def links(rng: random.Random, place: Path, mine: Path) -> None:
    some(rng, place).symlink_to(rng.choice([mine, mine.parent, mine.parent / "new.txt"]))


def pipes(rng: random.Random, place: Path, mine: Path) -> None:
    os.mkfifo(some(rng, place))


def absurd(rng: random.Random, place: Path, mine: Path) -> None:
    path = place / rng.choice(["train.nc", "gradient_signs.nc", "claims.json", "config.json", "a.npy"])
    if rng.random() < 0.5 and path.suffix == ".nc":
        with h5py.File(path, "w") as file:
            file.create_dataset("loss", (2**40,), "f4", chunks=(2**20,), compression="gzip")
    else:
        with path.open("wb") as file:
            file.truncate(2**43)


def leads(rng: random.Random, place: Path, mine: Path) -> None:
    with h5py.File(place / rng.choice(["train.nc", "gradient_signs.nc"]), "w") as file:
        if rng.random() < 0.5:
            file["loss"] = h5py.ExternalLink(str(mine), "loss")
        else:
            file.create_dataset("loss", (1,), "f4", external=[(str(mine), 0, 4)])


def speaks(rng: random.Random, place: Path, mine: Path) -> None:
    """Text that is a command to a terminal, markup, or a way out of the directory."""
    text = rng.choice(["\x1b[2J", "../../mine", "<img src=x>", "a|b`c`", "\udcff", "[" * 10**6, "9" * 5000])
    path = place / rng.choice(["config.json", "claims.json", "provenance.json"])
    tree = json.loads(path.read_text()) if path.exists() else {}
    entry = tree[0] if isinstance(tree, list) else tree
    entry[rng.choice(sorted(entry) or ["preset"])] = text
    path.write_text(json.dumps(tree) if text[:2] != "[[" else text)


ATTACKS = (links, pipes, absurd, leads, speaks)
