"""
What the tests in a browser share: Debian's Chromium, and a folder for screenshots if one is wanted.

They take minutes, and a usual run of the suite does without.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from asked import is_named
from browser.airflow_ui import form as form, ui_airflow as ui_airflow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_ignore_collect(collection_path, config):
    """Collect them only if they are asked for."""
    return None if is_named(HERE, config) or os.environ.get("BROWSER_TESTS") == "required" else True


# One for each module and no longer: Playwright's event loop, while it runs, is in the way of asyncio.run.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        give_up = pytest.fail if os.environ.get("BROWSER_TESTS") == "required" else pytest.skip
        give_up("there is no Chromium on PATH")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def save_screenshot() -> Callable[[Page, str], None]:
    """Save what a page shows in the folder that SCREENSHOTS names, if it names one."""
    folder = os.environ.get("SCREENSHOTS")

    def save(page: Page, name: str) -> None:
        if folder:
            page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)

    return save
