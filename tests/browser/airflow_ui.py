"""A real Airflow's own pages for tests in a browser: the connection form as a person uses it, in Airflow 2 and 3."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import airflow
import pytest
from local_airflow import PROCESSES, LocalAirflow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

IS_AIRFLOW_2 = airflow.__version__.startswith("2.")
ROOT = Path(__file__).parents[2]
LONGEST_START = 120.0
PATIENCE = 30_000
CONN_ID = "anon_default"
STANDARD = ("host", "login", "password", "port", "schema", "description")
READ = """
import json
from dataclasses import asdict
from airflow_anon.hooks import AnonHook
print(json.dumps(asdict(AnonHook().endpoint())))
"""


class UiAirflow(LocalAirflow):
    """Airflow whose pages ask for no login; the test of a connection is switched on."""

    def __init__(self, home: Path, dags: Path, *, is_whole: bool = False, **settings: str) -> None:
        (home / "webserver_config.py").write_text("AUTH_ROLE_PUBLIC = 'Admin'\n")
        pages = "webserver" if IS_AIRFLOW_2 else "api-server"
        processes = tuple(PROCESSES) if is_whole else (pages,)
        super().__init__(home, dags, processes, AIRFLOW__CORE__TEST_CONNECTION="Enabled", **settings)
        self._environment |= {
            # Airflow 2 takes SQLite only with an executor for one task at a time; none is run there.
            "_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK": "1",
            "AIRFLOW__WEBSERVER__SECRET_KEY": self._environment["AIRFLOW__API__SECRET_KEY"],
            "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
            "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": self.url.rpartition(":")[2],
            "AIRFLOW__WEBSERVER__WORKERS": "1",
            "PYTHONPATH": str(ROOT),
        }

    def wait(self) -> None:
        """Wait until the pages are there."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        path = "/health" if IS_AIRFLOW_2 else "/api/v2/monitor/health"
        end = time.monotonic() + LONGEST_START
        while time.monotonic() < end:
            self.check()
            try:
                opener.open(self.url + path, timeout=5).close()
            except OSError:
                time.sleep(0.2)
            else:
                return
        pytest.fail("Airflow's pages do not come up")

    def forget_connections(self) -> None:
        """Delete what is stored."""
        with sqlite3.connect(self.home / "airflow.db") as database:
            database.execute("DELETE FROM connection")
        database.close()

    def read(self) -> dict[str, Any]:
        """Return what ``AnonHook`` reads in a stored connection, read in a process of its own as a task does."""
        environment = self._environment | {"_AIRFLOW_PROCESS_CONTEXT": "server"}
        command = [sys.executable, "-c", READ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=self.home
        )
        assert done.returncode == 0, done.stderr
        endpoint: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return endpoint


@dataclass(frozen=True)
class Field:
    """A field of the form as a person sees it."""

    name: str
    label: str
    help: str
    placeholder: str
    kind: str
    is_required: bool

    @classmethod
    def of(cls, control: Locator, label: Locator, helper: Locator, prefix: str) -> Field:
        """Read a field from its parts on the page; *prefix* is what the page puts before the names of ours."""
        return cls(
            name=(control.get_attribute("name") or "").removeprefix(prefix),
            label=label.inner_text().strip(),
            help=helper.inner_text().strip() if helper.count() else "",
            placeholder=control.get_attribute("placeholder") or "",
            kind=control.get_attribute("type") or "",
            is_required="*" in label.inner_text(),
        )


class FormOf3:
    """The dialog of Airflow 3, and its page of connections."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, f"{url}/connections"

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def begin(self) -> None:
        """Begin a connection of our type."""
        self.page.goto(self.url)
        self.page.get_by_role("button", name="Add Connection").first.click(timeout=PATIENCE)
        self.dialog.locator("[name=connection_id]").fill(CONN_ID)
        self.dialog.get_by_role("combobox").first.fill("Anon")
        self.page.get_by_role("option", name="Anon", exact=True).click()
        self.dialog.locator("[name=host]").wait_for()

    def edit(self) -> None:
        """Open a stored connection."""
        self.page.goto(self.url)
        self._row().get_by_role("button", name="Edit Connection").click(timeout=PATIENCE)
        self.dialog.locator("[name=host]").wait_for()

    def show(self, section: str) -> None:
        """Open the folded part of the form that has a field."""
        button = self.dialog.get_by_role("button", name=section, exact=True)
        if button.get_attribute("aria-expanded") != "true":
            button.click()

    def fill(self, **fields: str) -> None:
        """Fill fields in, by their names in a connection."""
        for name, text in fields.items():
            field = self._field(name)
            field.fill(text)
            field.blur()

    def value(self, name: str) -> str:
        """Return what a field shows."""
        return self._field(name).input_value()

    def save(self) -> None:
        """Save, and wait until that is done."""
        self.dialog.get_by_role("button", name="Save").click()
        self.dialog.wait_for(state="hidden")

    def test(self, **fields: str) -> tuple[bool, str]:
        """Store a connection and press the button that tests it; return how it went and what the page says."""
        self.begin()
        self.fill(**fields)
        self.save()
        return self.press_test()

    def press_test(self) -> tuple[bool, str]:
        """Press the button of a stored connection."""
        self.page.goto(self.url)
        self._row().get_by_role("button", name="Test Connection").click(timeout=PATIENCE)
        toast = self.page.locator("[data-scope=toast][data-part=root]").filter(has_text="Test Connection")
        toast.wait_for(timeout=PATIENCE)
        toast.evaluate("it => Promise.all(it.getAnimations({subtree: true}).map(each => each.finished))")
        title = toast.locator("[data-part=title]").inner_text()
        return title == "Test Connection Successful", toast.locator("[data-part=description]").inner_text()

    def fields(self) -> list[Field]:
        """Return all fields in the order that the page shows them."""
        self.show("Standard Fields")
        fields = self._fields()
        self.show("Extra Fields")
        self.dialog.locator("[name=element_timeout]").wait_for()
        return fields + [field for field in self._fields() if field not in fields]

    def _fields(self) -> list[Field]:
        found = []
        for row in self.dialog.locator("[data-scope=field][data-part=root]").all():
            control = row.locator("input[name], textarea[name]")
            if control.count() != 1 or not control.is_visible():
                continue
            label, helper = row.locator("label"), row.locator("[data-part=helper-text]")
            found.append(Field.of(control, label, helper, "element_"))
        return found

    def _field(self, name: str) -> Locator:
        self.show("Standard Fields" if name in STANDARD else "Extra Fields")
        field = self.dialog.locator(f"[name={name}]" if name in STANDARD else f"[name=element_{name}]")
        field.wait_for()
        return field

    def _row(self) -> Locator:
        cell = self.page.get_by_role("cell", name=CONN_ID, exact=True)
        return self.page.get_by_role("row").filter(has=cell)


class FormOf2:
    """The pages of Airflow 2."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, f"{url}/connection"

    def begin(self) -> None:
        """Begin a connection of our type."""
        self.page.goto(f"{self.url}/add", timeout=PATIENCE)
        self.page.locator("#conn_id").fill(CONN_ID)
        self.page.locator("#conn_type").select_option("anon", force=True)
        self.page.locator("#extra__anon__timeout").wait_for()

    def edit(self) -> None:
        """Open a stored connection."""
        self.page.goto(f"{self.url}/list/", timeout=PATIENCE)
        cell = self.page.get_by_role("cell", name=CONN_ID, exact=True)
        row = self.page.get_by_role("row").filter(has=cell)
        row.locator("a[href*='/connection/edit/']").click()
        self.page.locator("#extra__anon__timeout").wait_for()

    def fill(self, **fields: str) -> None:
        """Fill fields in, by their names in a connection."""
        for name, text in fields.items():
            self._field(name).fill(text)

    def value(self, name: str) -> str:
        """Return what a field shows."""
        return self._field(name).input_value()

    def save(self) -> None:
        """Save, and wait until that is done."""
        self.page.get_by_role("button", name="Save").click()
        # Where Airflow goes from here depends on the pages that were seen before.
        self.page.wait_for_url(re.compile(r"^(?!.*/connection/(add|edit))"))

    def test(self, **fields: str) -> tuple[bool, str]:
        """Fill a connection in and press the button that tests it; return how it went and what the page says."""
        self.begin()
        self.fill(**fields)
        # The page shows green whenever there was an answer: only the answer tells how the test went.
        with self.page.expect_response("**/connections/test") as response:
            self.page.locator("#test-connection").click()
        self.page.locator(".alert-success").wait_for()
        message = self.page.locator(".alert-success").inner_text()
        return response.value.json()["status"], message.replace("×", "").strip()

    def fields(self) -> list[Field]:
        """Return all fields in the order that the page shows them."""
        found = []
        for control in self.page.locator(
            "form input[type=text], form input[type=password], form textarea"
        ).all():
            if not control.get_attribute("name") or not (label := self._label(control)).is_visible():
                continue
            helper = control.locator("xpath=ancestor::td").locator(".help-block")
            found.append(Field.of(control, label, helper, "extra__anon__"))
        return found

    def _label(self, control: Locator) -> Locator:
        return self.page.locator(f"label[for='{control.get_attribute('id')}']")

    def _field(self, name: str) -> Locator:
        return self.page.locator(f"#{name}" if name in STANDARD else f"#extra__anon__{name}")


Form = FormOf2 if IS_AIRFLOW_2 else FormOf3


@pytest.fixture(scope="session")
def ui_airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UiAirflow]:
    """Airflow's pages, with nothing that runs tasks."""
    home = tmp_path_factory.mktemp("ui-airflow")
    (home / "dags").mkdir()
    with UiAirflow(home, home / "dags") as airflow:
        airflow.wait()
        yield airflow
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def form(browser: Browser, ui_airflow: UiAirflow) -> Iterator[FormOf2 | FormOf3]:
    """Airflow's connection form, in a page of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(PATIENCE)
    yield Form(context.new_page(), ui_airflow.url)
    context.close()
    ui_airflow.forget_connections()
