"""``make ui``: the simulator's page beside Airflow's own UI, walked through from the terminal's first line to Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if os.environ.get("BROWSER_TESTS") != "required":
    pytest.importorskip("playwright", reason="Playwright is in the dependency group `browser`")

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
PATIENCE = 60_000

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def ui(browser: Browser) -> Iterator[subprocess.Popen[str]]:
    # Started after the browser is known to be there: without one, nothing is worth the wait.
    command = [sys.executable, str(ROOT / "demo" / "ui.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield process
        process.terminate()


def said_until(process: subprocess.Popen[str], end: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if end in line:
            return said
    pytest.fail(f"it ended, and never said {end!r}: {said}")


def test_a_run_is_completed_on_the_page_and_the_dag_goes_green(
    browser: Browser, ui: subprocess.Popen[str]
) -> None:
    said = said_until(ui, "Ctrl-C")
    page_url, airflow_url, run_id = (
        re.search(rf"{words}\s+(\S+)$", said, re.MULTILINE)[1]
        for words in ("Simulator's page", "Airflow", "the id of the run:")
    )
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    elsewhere: list[str] = []
    context.on("request", lambda request: elsewhere.append(request.url))
    page, airflow = context.new_page(), context.new_page()
    page.goto(page_url)
    run = page.locator(f'[id="{run_id}"]')

    airflow.goto(airflow_url)
    airflow.get_by_role("button", name="Trigger").first.click(timeout=PATIENCE)
    airflow.get_by_role("dialog").locator('[name="element_workflow_run_id"]').fill(run_id)
    airflow.get_by_role("dialog").get_by_role("button", name="Trigger").click()
    airflow.wait_for_url("**/runs/manual__*", timeout=PATIENCE)
    expect(run).to_contain_text(re.compile(r"[1-9]\d* polls?\b"), timeout=PATIENCE)
    run.get_by_role("button", name="Complete").click()
    expect(run.get_by_role("heading")).to_have_text("COMPLETED")

    # The DAG run and its two tasks.
    expect(airflow.get_by_text("Success", exact=True)).to_have_count(3, timeout=PATIENCE)
    context.close()
    assert [url for url in elsewhere if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    ui.send_signal(signal.SIGINT)
    assert "Both are stopped." in said_until(ui, "stopped")
    assert ui.wait(timeout=30) == 0
