"""A real browser, for pages that a run writes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for the pages of a module's tests; they are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra test is not installed")
    if not BROWSER:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as tool:
        started = tool.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def page_of(
    browser: Any, path: Path | str, width: int = 1280, scheme: str = "light"
) -> Iterator[tuple[Any, list[str], list[str]]]:
    """(page, what the console said, what was asked for) of a file."""
    said: list[str] = []
    asked: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{path}")
    yield page, said, asked
    page.close()
