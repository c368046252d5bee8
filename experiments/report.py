"""The verdicts and the report of a run directory as it is, finished or not: nothing is trained.

Writes claims.json and report.html into it, from the result files that are there. With --against, it only prints the
verdicts of two runs side by side.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.command_line import ask, exiting
from neuron_mech import claims, files
from neuron_mech.errors import InputError, harmless
from neuron_mech.report import html


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
    if changed or not (_holds(before, claims.text(judged)) and page.exists()):
        claims.write(directory, judged)
        files.write_text(page, html(directory, found, judged))
    print(claims.table(judged))
    for line in found.damaged:
        print(f"left out: {harmless(line)}", file=sys.stderr)
    print(f"claims: {before}; report: {page}")


def _holds(path: Path, text: str) -> bool:
    """Whether a file is there, and is this text."""
    try:
        return files.read_text(path) == text
    except (OSError, ValueError):
        return False


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
