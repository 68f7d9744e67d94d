"""The documentation as a site: what a reader's browser makes of it, with nothing but the files that Sphinx writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if os.environ.get("BROWSER_TESTS") != "required":
    pytest.importorskip("playwright", reason="Playwright is in the dependency group `browser`")
    for needed in ("furo", "myst_parser", "sphinx"):
        pytest.importorskip(needed, reason=f"{needed} is in the dependency group `docs`")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
BROKEN = "[...document.images].filter(each => each.naturalWidth === 0).map(each => each.src)"
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "--keep-going", "docs", str(folder)]
    built = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    elsewhere: list[str] = []
    context.on("request", lambda request: elsewhere.append(request.url))
    yield context.new_page()
    context.close()
    assert [url for url in elsewhere if not url.startswith(("file:", "data:"))] == []


def test_every_page_shows_its_pictures_and_fits_a_phone(page: Page, site: Path) -> None:
    for name in PAGES:
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"{site.as_uri()}/{name}.html")
        page.evaluate("[...document.images].forEach(each => { each.loading = 'eager' })")
        page.wait_for_function("[...document.images].every(each => each.complete)")
        broken = page.evaluate(BROKEN)
        page.set_viewport_size({"width": 360, "height": 740})

        assert (name, broken, page.evaluate(TOO_WIDE)) == (name, [], 0)


def test_the_front_page_is_shown(
    page: Page, site: Path, save_screenshot: Callable[[Page, str], None]
) -> None:
    page.goto(f"{site.as_uri()}/index.html")

    page.get_by_role("heading", name="Start here").wait_for()
    save_screenshot(page, "docs-front")
