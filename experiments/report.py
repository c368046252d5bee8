"""The verdicts and the report of a run directory, finished or not, from its result files: nothing is trained.

Writes claims.json and report.html into it. With --against, it only prints the verdicts of two runs side by side.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.command_line import entry_point
from experiments.command_line.arguments import ask, split_names
from neuron_mech import store
from neuron_mech.errors import InputError, harmless
from neuron_mech.paper import claims, explorer
from neuron_mech.paper.report import html
from neuron_mech.store import files


@dataclass(frozen=True)
class ReportOptions:
    """Options of this command, after the run's directory."""

    against: Path | None = None
    """Directory of another run, whose verdicts are shown beside."""


def finish(directory: Path, changed: bool = True) -> None:
    """Judge the claims, print them, and write claims.json, report.html and explorer.html unless they are current.

    `changed` says that result files were written since.
    """
    found = claims.findings(directory)
    judged = claims.claims(found)
    before, page = directory / "claims.json", directory / "report.html"
    try:
        stored = files.read_text(before)
    except (OSError, ValueError):
        stored = ""
    said = [f"left out: {line}" for line in (*found.damaged, *store.all_lost(directory))]
    said += claims.fewer(stored.encode(), judged)
    if page.exists() and not sealed(page):
        said.append(f"{page} was damaged: it is made again")
    if changed or stored != claims.text(judged) or not sealed(page):
        claims.write(directory, judged)
        files.write_bytes(page, with_seal(html(directory, found, judged)))
        if (neurons := explorer.html(directory, found)) is not None:
            files.write_bytes(directory / "explorer.html", with_seal(neurons))
    print(claims.table(judged))
    for line in said:
        print(harmless(line), file=sys.stderr)
    print(f"claims: {before}; report: {page}")


def with_seal(page: str) -> bytes:
    """A page with its SHA-256 in a last line.

    It is not noted in checksums.json, because `report` may run while an experiment writes that file.
    """
    content = page.encode()
    return content + f"\n<!-- SHA-256 of the above: {hashlib.sha256(content).hexdigest()} -->\n".encode()


def sealed(path: Path) -> bool:
    """Whether the page exists and its SHA-256 is right."""
    try:
        content = files.read(path)
    except OSError:
        return False
    return content == with_seal(content.rpartition(b"\n<!-- SHA-256")[0].decode(errors="replace"))


@entry_point
def main() -> None:
    """The command line: RUN_DIR [--against RUN_DIR]."""
    names, rest = split_names(sys.argv[1:], 1)
    options = ask(ReportOptions, ReportOptions(), rest, "report RUN_DIR", __doc__ or "")
    directory = Path(names[0])
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory: name that of a run, such as runs/digits")
    if options.against is not None:
        one, other = (claims.claims(claims.findings(at)) for at in (directory, options.against))
        print(claims.comparison(one, other, (str(directory), str(options.against))))
        return
    finish(directory)


if __name__ == "__main__":
    main()
