"""A published run in tables: what each experiment measured, site by site, with the lowest and highest of the seeds.

`experiments.publish` writes them into results/RUN/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from neuron_mech.lazily import xarray as xr
from neuron_mech.paper.claims import Findings
from neuron_mech.paper.claims.findings import label

Row = Sequence[str]


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
    for table in (signs, displacement, numerics, controls, separation, movement, classes, *TWO_VALUES, windows):
        lines += ["", *table(found)]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def signs(found: Findings) -> Iterable[str]:
    """Constancy, categories and flips by site."""
    if not found.signs:
        return []
    head = ["site", "constant", "average sign at least 0.99", "exactly 1", "before / after saturation", "low", "flips"]
    rows = []
    for site, name in sites(found.signs[0]):
        at = [signs.sel(site=site) for signs in found.signs]
        curve = [over([float(s.constancy_curve.sel(level=level)) for s in at], "%") for level in (0.99, 1.0)]
        phases = [over([float(s.constancy_by_phase.sel(phase=p)) for s in at], "%") for p in ("before", "after")]
        row = [over([float(s[of]) for s in at], "%") for of in ("constancy", "low_share", "flips_per_recording")]
        rows.append([name, row[0], *curve, " / ".join(phases), *row[1:]])
    recordings = int(found.signs[0].recordings)
    return made("Signs (figures 1 and 5)", head, rows, f"{recordings:,} recordings.")


def displacement(found: Findings) -> Iterable[str]:
    """Constancy beside that of weights moved as far in another direction."""
    if not found.displacement:
        return []
    first = found.displacement[0]
    nulls = [str(null) for null in first.null.values]
    rows = [
        [
            name,
            *(
                over(
                    [float(d.neuron_constancy.sel(null=null, neuron_site=site).mean()) for d in found.displacement], "%"
                )
                for null in nulls
            ),
        ]
        for site, name in sites(first)
    ]
    accuracy = [over([float(d.accuracy.sel(null=null)) for d in found.displacement], "%") for null in nulls]
    rows.append(["training images right, last", *accuracy])
    return made("Equal displacement: constant signs of weights moved as far", ["site", *nulls], rows)


def numerics(found: Findings) -> Iterable[str]:
    """What arithmetic decides, by objective."""
    if not found.signs:
        return []
    columns = {"objective_constancy": "constant", "zero_share": "zero", "wrong_sign": "wrong", "lost_sign": "lost"}
    rows = [
        [
            name,
            str(objective),
            *(over([float(s[of].sel(site=site, objective=objective)) for s in found.signs], "%", 2) for of in columns),
        ]
        for site, name in sites(found.signs[0])
        for objective in found.signs[0].objective.values
    ]
    return made(
        "Numerics",
        ["site", "objective", *columns.values()],
        rows,
        "Wrong and lost: against double precision, at the end.",
    )


def controls(found: Findings) -> Iterable[str]:
    """Constancy of the controls, with that after saturation in brackets."""
    if not found.controls:
        return []
    of = found.controls[0]
    named = list(sites(of))
    rows = []
    for control in of.control.values:
        at = of.sel(control=control)
        cells = [
            f"{percent(at.constancy.sel(site=site))} ({percent(at.constancy_by_phase.sel(site=site, phase='after'))})"
            for site, _ in named
        ]
        fitted = "" if bool(at.fitted) else ", not fitted"
        rows.append([str(control), *cells, percent(at.train_accuracy) + fitted])
    head = ["", *(name for _, name in named), "training accuracy"]
    return made("Controls of the signs", head, rows, "One seed; in brackets the recordings after saturation.")


def separation(found: Findings) -> Iterable[str]:
    """How far the categories come apart."""
    if not found.dynamics:
        return []
    rows = []
    for site, name in sites(found.dynamics[0]):
        at = [d.sel(neuron_site=site) for d in found.dynamics]

        def value(of: str, partition: str, row: int, at: list[xr.Dataset] = at) -> str:
            return over([float(d[of].sel(partition=partition)[row].mean()) for d in at], "", 3)

        ends = [value("auc", "own", row) for row in (0, -1)]
        half = over([float(d.half_auc.mean()) for d in at], "", 3)
        overlap = [value("overlap", partition, -1) for partition in ("own", "dealt at random")]
        climbed = []
        for d in at:
            start, end = float(d.highest_rank_start.mean()), float(d.highest_rank_end.mean())
            climbed.append((end - start) / (end - 50))
        rows.append([name, *ends, value("auc", "another neuron's", -1), half, *overlap, over(climbed, "")])
    head = ["site", "AUC at the start", "at the end", "another neuron's categories", "first half's categories"]
    head += ["overlap at the end", "dealt at random", "R of claim 6"]
    return made("Separation (figures 2, 6 and 7)", head, rows)


def movement(found: Findings) -> Iterable[str]:
    """What the change of pre-activations consists of."""
    if not found.dynamics:
        return []
    first = found.dynamics[0]
    rows = []
    for site, name in sites(first):
        at = [d.sel(neuron_site=site).isel(wide_epoch=-1) for d in found.dynamics]
        change = [over([float(d.change.sel(part=p).mean()) for d in at], "%") for p in first.part.values]
        variance = [
            over([float(d.variance.sel(variance_part=p).mean()) for d in at], "%")
            for p in first.variance_part.values[:-1]
        ]
        rows.append([name, *change, *variance])
    head = ["site", *map(str, first.part.values), *(f"variance: {part}" for part in first.variance_part.values[:-1])]
    return made("What moves: shares of the mean squared change, and of the final variance", head, rows)


def classes(found: Findings) -> Iterable[str]:
    """How classes fall into categories, and what predicts a category."""
    if not found.classes:
        return []
    first = found.classes[0]
    predictors = [str(predictor) for predictor in first.predictor.values]
    rows = []
    for site in map(str, first.site.values):
        at = [of.sel(neuron_site=site) for of in found.classes]
        whole = over([float(of.wholly.sel(site=site)) for of in found.classes], "%")
        explained = over([float(of.explained_by_class.mean()) for of in at], "%")
        told = [over([float(of.agreement.sel(predictor=p).mean()) for of in at], "%") for p in predictors]
        rows.append([str(first.site_label.sel(site=site).item()), whole, explained, *told])
    head = ["site", "wholly in or out", "explained by the class", *predictors]
    return made("Classes (figure 8), and shares of categories that are told by …", head, rows)


def two_values(title: str, chosen: Callable[[Findings], xr.Dataset | None]) -> Callable[[Findings], Iterable[str]]:
    """A table of quantization, of what `chosen` takes from the findings."""

    def table(found: Findings) -> Iterable[str]:
        codes = chosen(found)
        if codes is None:
            return []
        ranks = [rank for rank in (20.0, 50.0, 80.0) if rank in codes.percentile_rank]
        ranked = {"": "rank of 0 (table 1)", "untrained_": "the same, untrained"}
        if codes.attrs["replace"] == "activation":
            ranked = {}  # the rank is that of pre-activations, which the table before has
        rows = []
        for site, name in sites(codes):
            at = codes.sel(site=site)
            cells = [over(codes.original_accuracy_by_seed.values, "%")]
            cells += [
                " / ".join(over(at[of].sel(percentile_rank=rank).values, "%") for rank in ranks)
                for of in ("accuracy_by_seed", "noise_accuracy_by_seed")
            ]
            cells.append(over(at.zero_threshold_accuracy_by_seed.values, "%"))
            cells += [
                f"{over(at[f'{kind}zero_rank_mean_by_seed'].values, '', 1)} ± "
                f"{over(at[f'{kind}zero_rank_std_by_seed'].values, '', 1)}"
                for kind in ranked
            ]
            rows.append([name, *cells])
        by = " / ".join(f"{rank:g}" for rank in ranks)
        head = ["site", "as it is", f"two values, by rank {by}", f"noise of equal error, {by}"]
        return made(title, [*head, "cut at pre-activation 0", *ranked.values()], rows)

    return table


TWO_VALUES = (
    two_values("Two values (figure 3)", lambda found: found.quantization),
    two_values("Two values after the activation function", lambda found: found.quantization_after),
)


def windows(found: Findings) -> Iterable[str]:
    """Accuracy through each window, of every source."""
    codes = found.binarization
    if codes is None:
        return []
    rows = []
    for site, name in sites(codes):
        for source in codes.source.values:
            cells = codes.accuracy_by_seed.sel(site=site, source=source)
            seeds = int(np.isfinite(cells).any("window_center").sum())
            if seeds:
                rows.append([name, str(source), str(seeds), *(over(cell.values, "%") for cell in cells.T)])
    centers = [f"{center:g}" for center in codes.window_center.values]
    return made("Windows (figure 4), by the rank of the center", ["site", "of", "seeds", *centers], rows)


def sites(of: xr.Dataset) -> Iterable[tuple[str, str]]:
    """(site, its name with the activation function) of a result file."""
    return [(str(site), label(of, str(site))) for site in of.site.values]


def made(title: str, head: Row, rows: Sequence[Row], note: str = "") -> list[str]:
    """A table under its title."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return [f"## {title}", "", *([note, ""] if note else []), lines[0], "|---" * len(head) + "|", *lines[1:]]


def over(values: Sequence[float] | np.ndarray, unit: str, digits: int | None = None) -> str:
    """The mean over seeds, with the lowest and the highest where there are several; – where there is no number."""
    known = [(100 if unit == "%" else 1) * float(value) for value in values if np.isfinite(value)]
    if not known:
        return "–"
    places = digits if digits is not None else 1 if unit == "%" else 2
    said = f"{np.mean(known):.{places}f} {unit}".rstrip()
    return said + (f" ({min(known):.{places}f}–{max(known):.{places}f})" if len(known) > 1 else "")


def percent(value: xr.DataArray) -> str:
    """A share of one run."""
    return over([float(value)], "%")
