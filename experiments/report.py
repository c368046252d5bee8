"""The verdicts and the report of a run directory as it is, finished or not: nothing is trained.

Writes claims.json and report.html into it, from the result files that are there. With --against, it only prints the
verdicts of two runs side by side.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.command_line import ask, exiting
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
    """Judge the claims on what is there, print them, and write claims.json and report.html unless they are current."""
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
        files.write(page, lambda part: part.write_bytes(with_seal(html(directory, found, judged))))
        if (neurons := explorer.html(directory, found)) is not None:
            files.write(directory / "explorer.html", lambda part: part.write_bytes(with_seal(neurons)))
    print(claims.table(judged))
    for line in said:
        print(harmless(line), file=sys.stderr)
    print(f"claims: {before}; report: {page}")


def with_seal(page: str) -> bytes:
    """A page with its SHA-256 in a last line: `report` may be asked for while an experiment notes its own files."""
    content = page.encode()
    return content + f"\n<!-- SHA-256 of the above: {hashlib.sha256(content).hexdigest()} -->\n".encode()


def sealed(path: Path) -> bool:
    """Whether a page is there and holds what was written."""
    try:
        content = files.read(path)
    except OSError:
        return False
    return content == with_seal(content.rpartition(b"\n<!-- SHA-256")[0].decode(errors="replace"))


def main() -> None:
    """The command line: RUN_DIR [--against RUN_DIR]."""

    def work() -> None:
        arguments = sys.argv[1:]
        asked_for_help = not arguments or arguments[0] in ("-h", "--help")
        rest = ["--help"] if asked_for_help else arguments[1:]
        options = ask(ReportOptions, ReportOptions(), rest, "report RUN_DIR", __doc__ or "")
        directory = Path(arguments[0])
        if not directory.is_dir():
            raise InputError(f"{directory} is no directory: name that of a run, such as runs/digits")
        if options.against is not None:
            one, other = (claims.claims(claims.findings(at)) for at in (directory, options.against))
            print(claims.comparison(one, other, (str(directory), str(options.against))))
            return
        finish(directory)

    exiting(work)


if __name__ == "__main__":
    main()
