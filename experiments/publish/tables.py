"""A published run in tables: what each experiment measured, site by site, with the lowest and highest of the seeds.

`experiments.publish` writes them into results/RUN/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims import Findings

Row = Sequence[str]
Files = Sequence["xr.Dataset"]
"""A result file of each seed."""
Cell = Callable[[Files], str]
"""What a table says of a site, from the parts of each seed's file that are about it."""


def page(found: Findings, command: str) -> str:
    """All tables of a run that has been reproduced, as one page."""
    seeds = len(found.train)
    spread = "; in brackets the lowest and the highest of the seeds" if seeds > 1 else ""
    accuracy = over([float(train.test_accuracy[-1]) for train in found.train], "%")
    lines = [
        f"# {command.split()[3]}",
        "",
        f"`{command}`, {seeds} seed{'s' * (seeds > 1)}{spread}. Test accuracy {accuracy}. The claims are in "
        "[claims.json](claims.json); the columns are explained [by topic](../../docs/results/index.md#by-topic).",
    ]
    before, after = _of_seeds(found.quantization), _of_seeds(found.quantization_after)
    tables: tuple[tuple[Files, Callable[[Files], list[str]]], ...] = (
        (found.signs, signs),
        (found.displacement, displacement),
        (found.signs, numerics),
        (found.controls, controls),
        (found.dynamics, separation),
        (found.dynamics, movement),
        (found.classes, classes),
        (before, two_values("Two values (figure 3)")),
        (after, two_values("Two values after the activation function")),
        ([] if found.binarization is None else [found.binarization], windows),
    )
    for files, table in tables:
        lines += ["", *table(files)] if files else []
    return "\n".join(lines) + "\n"


def _of_seeds(codes: xr.Dataset | None) -> Files:
    """A result file that holds all seeds, seed by seed."""
    return [] if codes is None else [codes.isel(seed=index) for index in range(codes.sizes["seed"])]


def signs(files: Files) -> list[str]:
    """Constancy, categories and flips by site."""
    columns = {
        "constant": cell("constancy"),
        "average sign at least 0.99": cell("constancy_curve", level=0.99),
        "exactly 1": cell("constancy_curve", level=1.0),
        "before / after saturation": beside(*(cell("constancy_by_phase", phase=p) for p in ("before", "after"))),
        "low": cell("low_share"),
        "flips": cell("flips_per_recording"),
    }
    return by_site("Signs (figures 1 and 5)", files, columns, f"{int(files[0].recordings):,} recordings.")


def displacement(files: Files) -> list[str]:
    """Constancy beside that of weights moved as far in another direction."""
    nulls = [str(null) for null in files[0].null.values]
    columns = {null: cell("neuron_constancy", null=null) for null in nulls}
    accuracy = [cell("accuracy", null=null)(files) for null in nulls]
    table = by_site("Equal displacement: constant signs of weights moved as far", files, columns)
    return [*table, _line(["training images right, last", *accuracy])]


def numerics(files: Files) -> list[str]:
    """What arithmetic decides, by objective."""
    columns = {"objective_constancy": "constant", "zero_share": "zero", "wrong_sign": "wrong", "lost_sign": "lost"}
    rows = [
        [name, str(objective), *(cell(of, digits=2, site=site, objective=objective)(files) for of in columns)]
        for site, name in sites(files[0])
        for objective in files[0].objective.values
    ]
    note = "Wrong and lost: against double precision, at the end."
    return made("Numerics", ["site", "objective", *columns.values()], rows, note)


def controls(files: Files) -> list[str]:
    """Constancy of the first seed's controls, with that after saturation in brackets."""
    named, rows = sites(files[0]), []
    for control in files[0].control.values:
        at = files[0].sel(control=control)
        share, after = at.constancy.values, at.constancy_by_phase.sel(phase="after").values
        cells = [f"{over([one], '%')} ({over([other], '%')})" for one, other in zip(share, after, strict=True)]
        fitted = "" if bool(at.fitted) else ", not fitted"
        rows.append([str(control), *cells, over([float(at.train_accuracy)], "%") + fitted])
    head = ["", *(name for _, name in named), "training accuracy"]
    return made("Controls of the signs", head, rows, "One seed; in brackets the recordings after saturation.")


def separation(files: Files) -> list[str]:
    """How far the categories come apart."""
    start, end = files[0].wide_epoch.values[[0, -1]]

    def climbed(at: Files) -> str:
        ranks = ([float(d[f"highest_rank_{when}"].mean()) for when in ("start", "end")] for d in at)
        return over([(last - first) / (last - 50) for first, last in ranks], "")

    columns = {
        "AUC at the start": cell("auc", "", 3, partition="own", wide_epoch=start),
        "at the end": cell("auc", "", 3, partition="own", wide_epoch=end),
        "another neuron's categories": cell("auc", "", 3, partition="another neuron's", wide_epoch=end),
        "first half's categories": cell("half_auc", "", 3),
        "overlap at the end": cell("overlap", "", 3, partition="own", wide_epoch=end),
        "dealt at random": cell("overlap", "", 3, partition="dealt at random", wide_epoch=end),
        "R of claim 6": climbed,
    }
    return by_site("Separation (figures 2, 6 and 7)", files, columns)


def movement(files: Files) -> list[str]:
    """What the change of pre-activations consists of."""
    ends = [file.isel(wide_epoch=-1) for file in files]
    columns = {str(part): cell("change", part=part) for part in ends[0].part.values}
    for part in ends[0].variance_part.values[:-1]:
        columns[f"variance: {part}"] = cell("variance", variance_part=part)
    return by_site("What moves: shares of the mean squared change, and of the final variance", ends, columns)


def classes(files: Files) -> list[str]:
    """How classes fall into categories, and what predicts a category."""
    columns = {"wholly in or out": cell("wholly"), "explained by the class": cell("explained_by_class")}
    columns |= {str(name): cell("agreement", predictor=name) for name in files[0].predictor.values}
    return by_site("Classes (figure 8), and shares of categories that are told by …", files, columns)


def two_values(title: str) -> Callable[[Files], list[str]]:
    """A table of quantization."""

    def table(files: Files) -> list[str]:
        ranks = [rank for rank in (20.0, 50.0, 80.0) if rank in files[0].percentile_rank]
        by = " / ".join(f"{rank:g}" for rank in ranks)
        kept, noise = (
            beside(*(cell(f"{name}_by_seed", percentile_rank=rank) for rank in ranks))
            for name in ("accuracy", "noise_accuracy")
        )
        columns = {
            "as it is": cell("original_accuracy_by_seed"),
            f"two values, by rank {by}": kept,
            f"noise of equal error, {by}": noise,
            "cut at pre-activation 0": cell("zero_threshold_accuracy_by_seed"),
        }
        if files[0].attrs["replace"] != "activation":  # else the rank is that of pre-activations, in the table before
            for kind, named in (("", "rank of 0 (table 1)"), ("untrained_", "the same, untrained")):
                both = (cell(f"{kind}zero_rank_{of}_by_seed", "", 1) for of in ("mean", "std"))
                columns[named] = beside(*both, between=" ± ")
        return by_site(title, files, columns)

    return table


def windows(files: Files) -> list[str]:
    """Accuracy through each window, of every source."""
    (codes,) = files
    rows = []
    for site, name in sites(codes):
        for source in codes.source.values:
            cells = codes.accuracy_by_seed.sel(site=site, source=source)
            seeds = int(np.isfinite(cells).any("window_center").sum())
            if seeds:
                rows.append([name, str(source), str(seeds), *(over(cell.values, "%") for cell in cells.T)])
    centers = [f"{center:g}" for center in codes.window_center.values]
    return made("Windows (figure 4), by the rank of the center", ["site", "of", "seeds", *centers], rows)


def by_site(title: str, files: Files, columns: Mapping[str, Cell], note: str = "") -> list[str]:
    """A table with a row for each site, and the neurons' values at the site where there are any."""
    rows = []
    for site, name in sites(files[0]):
        at = [file.sel({dim: site for dim in ("site", "neuron_site") if dim in file.coords}) for file in files]
        rows.append([name, *(of(at) for of in columns.values())])
    return made(title, ["site", *columns], rows, note)


def cell(name: str, unit: str = "%", digits: int | None = None, **at: Any) -> Cell:
    """A variable over seeds, where its coordinates are `at`; of neurons' values, the mean over neurons."""
    return lambda files: over([float(file[name].sel(at).mean()) for file in files], unit, digits)


def beside(*cells: Cell, between: str = " / ") -> Cell:
    """Several in one."""
    return lambda files: between.join(one(files) for one in cells)


def sites(of: xr.Dataset) -> list[tuple[str, str]]:
    """(site, its name with the activation function) of a result file."""
    named = of.site_label if "site_label" in of.coords else of.label
    return [(str(site), str(name)) for site, name in zip(of.site.values, named.values, strict=True)]


def made(title: str, head: Row, rows: Sequence[Row], note: str = "") -> list[str]:
    """A table under its title."""
    rule = "|---" * len(head) + "|"
    return [f"## {title}", "", *([note, ""] if note else []), _line(head), rule, *map(_line, rows)]


def _line(row: Row) -> str:
    return "| " + " | ".join(row) + " |"


def over(values: Sequence[float] | np.ndarray, unit: str, digits: int | None = None) -> str:
    """The mean over seeds, with the lowest and the highest where there are several; – where there is no number."""
    known = [(100 if unit == "%" else 1) * float(value) for value in values if np.isfinite(value)]
    if not known:
        return "–"
    places = digits if digits is not None else 1 if unit == "%" else 2
    said = f"{np.mean(known):.{places}f} {unit}".rstrip()
    return said + (f" ({min(known):.{places}f}–{max(known):.{places}f})" if len(known) > 1 else "")
