"""Published figures and verdicts: they lie in results/, beside docs/, where links on a code host find them too."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

RESULTS = Path(__file__).parent.parent / "results"
OUTSIDE = re.compile(r"\((?:\.\./)+results/([\w./-]+\.(?:png|gif|json|md))\)")
"""A link from a page to a file that is no page's."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Every picture, page and claims.json of results/ as published/ of the site."""
    for path in sorted(path for ending in ("png", "gif", "json", "md") for path in RESULTS.rglob(f"*.{ending}")):
        place = f"published/{path.relative_to(RESULTS).as_posix()}"
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to results/ as links to published/, and from there to docs/ as links to the site's pages."""
    if page.file.src_uri.startswith("published/"):
        return markdown.replace("(../../docs/", "(../../")
    up = "../" * page.file.src_uri.count("/")
    return OUTSIDE.sub(rf"({up}published/\1)", markdown)
