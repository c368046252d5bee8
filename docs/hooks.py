"""Published figures and verdicts, and the schema of verdicts: links on a code host find them where they lie."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PLACES = ("results", "neuron_mech/paper/claims")
"""Where they lie, beside docs/."""
OUTSIDE = re.compile(rf"\((?:\.\./)+(?:{'|'.join(PLACES)})/([\w./-]+\.(?:png|gif|json|md))\)")
"""A link from a page to a file that is no page's."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Every picture, page and JSON file of these places as published/ of the site."""
    for place in (Path(__file__).parent.parent / name for name in PLACES):
        for path in sorted(path for ending in ("png", "gif", "json", "md") for path in place.rglob(f"*.{ending}")):
            published = f"published/{path.relative_to(place).as_posix()}"
            files.append(File.generated(config, published, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to these places as links to published/, and from there to docs/ as links to the site's pages."""
    if page.file.src_uri.startswith("published/"):
        return markdown.replace("(../../docs/", "(../../")
    up = "../" * page.file.src_uri.count("/")
    return OUTSIDE.sub(rf"({up}published/\1)", markdown)
