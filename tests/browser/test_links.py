"""The link from a task to its run on the pages of a real Airflow, while the task waits in each mode and afterwards."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser.airflow_ui import PATIENCE, UiAirflow

from airflow_anon.links import AnonWorkflowRunLink
from airflow_anon.simulator import Simulator

if os.environ.get("BROWSER_TESTS") != "required":
    pytest.importorskip("playwright", reason="Playwright is in the dependency group `browser`")

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

DAG_ID = "invoices"
WAITS = "PENDING 2s, IN_PROGRESS (post_invoice) until answered, COMPLETED"
FAILS = "PENDING 2s, IN_PROGRESS (post_invoice) 3s, FAILED"
SCRIPTS = {
    "poke": WAITS,
    "reschedule": WAITS,
    "deferred": WAITS,
    "without_worker": WAITS,
    "failed": FAILS,
    "poll": WAITS,
}
MAPPED = ["PENDING 2s, COMPLETED", WAITS, FAILS]
LONGEST = 120.0

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class DagRun:
    """A run of the DAG on Airflow's pages."""

    airflow: UiAirflow
    simulator: Simulator
    id: str
    run_ids: dict[str, str]
    mapped_run_ids: list[str]

    def wait_for(self, state: str, task_id: str, map_index: int = -1) -> None:
        """Wait until a task is in a state."""
        path = f"/dags/{DAG_ID}/dagRuns/{self.id}/taskInstances/{task_id}"
        end = time.monotonic() + LONGEST
        while (found := (self.airflow.ask(f"{path}/{map_index}") or {}).get("state")) != state:
            assert time.monotonic() < end, f"{task_id} is {found}, not {state}"
            time.sleep(0.2)

    def url(self, path: str) -> str:
        """Return the address of Airflow's page of a task."""
        return f"{self.airflow.url}/dags/{DAG_ID}/runs/{self.id}/tasks/{path}"


@pytest.fixture(scope="module")
def dag_run(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagRun]:
    # Started after the browser is known to be there: without one, nothing is worth the wait.
    home = tmp_path_factory.mktemp("links-airflow")
    with Simulator(token="tok-3n") as simulator:
        connection = simulator.connection(run_url_template=f"{simulator.page_url}#{{id}}")
        settings = {"AIRFLOW_CONN_ANON_DEFAULT": connection, "AIRFLOW__CORE__PARALLELISM": "8"}
        with UiAirflow(home, Path(__file__).parent / "dags", is_whole=True, **settings) as airflow:
            airflow.wait_for_dag(DAG_ID)
            run_ids = {task_id: simulator.create_run(script) for task_id, script in SCRIPTS.items()}
            mapped = [simulator.create_run(script) for script in MAPPED]
            begin = {"logical_date": None, "conf": run_ids | {"mapped": mapped}}
            started: Any = airflow.ask(f"/dags/{DAG_ID}/dagRuns", begin)
            yield DagRun(airflow, simulator, started["dag_run_id"], run_ids, mapped)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 579})
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def show_details(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("link", name="Details", exact=True).click()


def link(page: Page) -> Locator:
    return page.get_by_role("link", name=AnonWorkflowRunLink.name, exact=True)


def leads_to(page: Page, simulator: Simulator, run_id: str) -> None:
    expect(link(page)).to_have_attribute("href", f"{simulator.page_url}#{run_id}", timeout=LONGEST * 1000)
    with page.context.expect_page() as opened:
        link(page).click()
    run = opened.value.locator(f'[id="{run_id}"]')
    expect(run).to_be_in_viewport()
    expect(run.get_by_role("heading")).to_have_text(simulator.run(run_id)["status"])
    opened.value.close()


@pytest.mark.parametrize(
    ("task_id", "state"),
    [
        ("poke", "running"),
        ("reschedule", "up_for_reschedule"),
        ("deferred", "deferred"),
        ("without_worker", "deferred"),
        ("failed", "failed"),
        ("poll", "success"),
    ],
)
def test_a_task_leads_to_its_run_while_it_waits_and_when_it_is_over(
    page: Page, dag_run: DagRun, save_screenshot: Callable[[Page, str], None], task_id: str, state: str
) -> None:
    dag_run.wait_for(state, task_id)

    show_details(page, dag_run.url(task_id))

    leads_to(page, dag_run.simulator, dag_run.run_ids[task_id])
    dag_run.wait_for(state, task_id)
    if task_id == "deferred":
        save_screenshot(page, "link-waiting")


def test_each_index_of_a_mapped_task_leads_to_its_own_run(
    page: Page, dag_run: DagRun, save_screenshot: Callable[[Page, str], None]
) -> None:
    for index, state in enumerate(("success", "deferred", "failed")):
        dag_run.wait_for(state, "mapped", index)

    for index, run_id in enumerate(dag_run.mapped_run_ids):
        show_details(page, dag_run.url(f"mapped/mapped/{index}"))
        leads_to(page, dag_run.simulator, run_id)

    page.set_viewport_size({"width": 1400, "height": 560})
    page.goto(dag_run.url("mapped/mapped?sort=map_index"))
    indexes = page.get_by_role("row").get_by_role("link", name=re.compile(r"^\d$"))
    expect(indexes).to_have_text(["0", "1", "2"])
    save_screenshot(page, "mapped-tasks")
