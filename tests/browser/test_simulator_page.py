"""The simulator's page, as a person uses it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from airflow_anon.simulator import Simulator

if os.environ.get("BROWSER_TESTS") != "required":
    pytest.importorskip("playwright", reason="Playwright is in the dependency group `browser`")

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

ASKED = "PENDING 1 poll, IN_PROGRESS (post_invoice) 1 poll, AWAITING_USER_INPUT (approve) until answered, COMPLETED"
RUN_ID = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
MARKUP = "<img src=x onerror=document.title='owned'>"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def page(browser: Browser, simulator: Simulator) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.goto(simulator.page_url)
    yield page
    context.close()
    assert [line for line in complaints if "ERR_CONNECTION" not in line and "400" not in line] == []


def row(page: Page, run_id: str) -> Locator:
    return page.locator(f'[id="{run_id}"]')


def create(page: Page, script: str) -> Locator:
    page.get_by_label("Script").fill(script)
    page.get_by_role("button", name="Create run").click()
    return page.get_by_role("listitem").filter(has=page.get_by_role("button", name="Copy")).first


def test_a_run_is_created_by_the_form_and_answered(page: Page, simulator: Simulator) -> None:
    run = create(page, "AWAITING_USER_INPUT (approve) until answered, COMPLETED")
    expect(run.get_by_role("heading")).to_have_text("AWAITING_USER_INPUT")
    expect(run).to_contain_text("approve")

    run.get_by_role("button", name="Answer").click()

    expect(run.get_by_role("heading")).to_have_text("COMPLETED")
    expect(run.get_by_role("button")).to_have_text(["Copy"])
    expect(page.get_by_role("status")).to_contain_text("is COMPLETED")
    assert (simulator.run(run.get_attribute("id") or "") or {})["status"] == "COMPLETED"


@pytest.mark.parametrize(("button", "status"), [("Complete", "COMPLETED"), ("Fail", "FAILED")])
def test_a_run_is_ended(page: Page, simulator: Simulator, button: str, status: str) -> None:
    run_id = simulator.create_run("IN_PROGRESS 1h, COMPLETED")
    run = row(page, run_id)
    expect(run.get_by_role("button", name=button)).to_be_visible()
    expect(run.get_by_role("button", name="Answer")).to_be_hidden()

    run.get_by_role("button", name=button).click()

    expect(run.get_by_role("heading")).to_have_text(status)
    expect(run).to_be_focused()
    assert (simulator.run(run_id) or {})["status"] == status


def test_a_ready_example_is_created_with_a_chosen_id_by_keyboard_alone(
    page: Page, simulator: Simulator
) -> None:
    page.get_by_label("Example").select_option("There is nothing to do")
    page.get_by_label("Id, if it matters").fill(RUN_ID)
    page.keyboard.press("Enter")

    expect(row(page, RUN_ID).get_by_role("heading")).to_have_text("PENDING")
    expect(row(page, RUN_ID)).to_contain_text("COMPLETED_WITH_NO_ACTION_TAKEN")
    assert simulator.run(RUN_ID) is not None


def test_the_timeline_shows_each_state_with_its_time_and_polls(page: Page, simulator: Simulator) -> None:
    run_id = simulator.create_run(ASKED)
    answer = page.request.get(f"{simulator.url}/api/v2/workflow-runs/{run_id}")
    page.request.get(f"{simulator.url}/api/v2/workflow-runs/{run_id}")
    steps = row(page, run_id).get_by_role("listitem")

    expect(steps).to_have_count(3)
    assert answer.json()["status"] == "PENDING"
    expect(steps.nth(0)).to_have_text(re.compile(r"^PENDING\d\.\d s, 1 poll$"))
    expect(steps.nth(1)).to_have_text(re.compile(r"^IN_PROGRESS \(post_invoice\)\d\.\d s, 1 poll$"))
    expect(steps.nth(2)).to_have_text(re.compile(r"^AWAITING_USER_INPUT \(approve\)\d\.\d s$"))
    expect(page.locator("#requests")).to_have_text("2")
    blocks = row(page, run_id).locator(".bar i")
    colours = blocks.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert len(set(colours)) == 3
    page.wait_for_function("all => all[2].offsetWidth > 3 * all[0].offsetWidth", arg=blocks.element_handles())


def test_a_timeline_is_as_wide_as_its_run_however_short_its_states(page: Page, simulator: Simulator) -> None:
    run = row(page, simulator.create_run("PENDING 50ms, IN_PROGRESS 50ms, COMPLETED"))
    expect(run.get_by_role("heading")).to_have_text("COMPLETED")

    blocks = run.locator(".bar i").evaluate_all("all => all.map(one => one.offsetWidth)")
    assert sum(blocks) >= run.locator(".bar").evaluate("bar => bar.offsetWidth") - 2 * len(blocks)


def test_an_id_is_copied(page: Page, simulator: Simulator) -> None:
    run_id = simulator.create_run("PENDING")
    row(page, run_id).get_by_role("button", name="Copy").click()

    expect(row(page, run_id).get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == run_id


def test_the_page_outlives_an_outage_that_takes_its_own_server_away(page: Page, simulator: Simulator) -> None:
    run_id = simulator.create_run("PENDING")
    expect(row(page, run_id)).to_be_visible()
    page.set_viewport_size({"width": 640, "height": 480})
    page.get_by_label("Kind").select_option("connections refused")
    expect(page.get_by_text("it is away too")).to_be_visible()
    page.get_by_label("Seconds").fill("2")
    page.get_by_role("button", name="Start outage").click()

    away = page.locator("#away")
    expect(away).to_contain_text("The simulator is away: connections are refused")
    expect(away).to_be_in_viewport()
    expect(row(page, run_id)).to_be_visible()
    expect(away).to_be_hidden()
    expect(row(page, run_id).get_by_role("button", name="Complete")).to_be_enabled()


def test_an_outage_of_answers_comes_and_is_ended(page: Page, simulator: Simulator) -> None:
    run_id = simulator.create_run("PENDING")
    page.get_by_role("button", name="Start outage").click()
    expect(page.get_by_text("503 to all requests, for 20 s more")).to_be_visible()
    during = page.request.get(f"{simulator.url}/api/v2/workflow-runs/{run_id}").status

    page.get_by_role("button", name="End it now").click()

    expect(page.get_by_role("button", name="End it now")).to_be_hidden()
    expect(page.locator("#outage-now")).to_be_empty()
    assert (during, page.request.get(f"{simulator.url}/api/v2/workflow-runs/{run_id}").status) == (503, 200)


def test_a_simulator_that_stopped_is_said_to_be_away(page: Page, simulator: Simulator) -> None:
    expect(page.get_by_text("There is no run yet.")).to_be_visible()
    simulator.stop()

    expect(page.locator("#away")).to_contain_text("The simulator does not answer.")


def test_faults_are_added_and_shown(page: Page, simulator: Simulator) -> None:
    run_id = simulator.create_run("PENDING")
    page.get_by_label("Spoil the next requests").fill("503 x2")
    page.get_by_role("button", name="Add faults").click()
    expect(page.get_by_text("2 requests still to be spoilt.")).to_be_visible()

    status = page.request.get(f"{simulator.url}/api/v2/workflow-runs/{run_id}").status

    assert status == 503
    expect(page.get_by_text("1 request still to be spoilt.")).to_be_visible()
    expect(page.get_by_label("Spoilt lately").get_by_role("listitem")).to_contain_text(
        [f"503 for {run_id[:8]}"]
    )


@pytest.mark.parametrize(
    ("field", "text", "button", "complaint"),
    [
        ("Script", "PENDNG", "Create run", "did you mean PENDING?"),
        ("Id, if it matters", "42", "Create run", "not the id of a workflow run"),
        ("Spoil the next requests", "boom", "Add faults", "right are an HTTP status"),
    ],
)
def test_a_mistake_is_explained_beside_the_form(
    page: Page, field: str, text: str, button: str, complaint: str
) -> None:
    page.get_by_label(field).fill(text)
    page.get_by_role("button", name=button).click()

    expect(page.get_by_role("alert").filter(has_text=complaint)).to_be_visible()


def test_what_a_user_wrote_is_text_and_never_markup(page: Page, simulator: Simulator) -> None:
    run_id = simulator.create_run(f"UNKNOWN:<b>x</b> ({MARKUP}) 1h, COMPLETED")

    expect(row(page, run_id).locator(".state")).to_have_text(MARKUP)
    expect(row(page, run_id).get_by_role("heading")).to_have_text("<b>x</b>")
    expect(page).to_have_title("Anon simulator")
    assert page.locator("img, b").count() == 0


def test_an_address_with_a_run_s_id_leads_to_the_run(page: Page, simulator: Simulator) -> None:
    run_ids = [simulator.create_run("PENDING") for _ in range(20)]
    page.goto("about:blank")
    page.goto(f"{simulator.page_url}#{run_ids[0]}")

    expect(row(page, run_ids[0])).to_be_in_viewport()
    expect(row(page, run_ids[19])).not_to_be_in_viewport()


def test_another_site_is_kept_out(browser: Browser, simulator: Simulator) -> None:
    script = """async (url) => {
      await fetch(url, {method: "POST", mode: "no-cors", body: '{"script": "PENDING"}'}).catch(() => null);
      return fetch(url).then(() => "read", () => "kept out");
    }"""
    with Simulator() as elsewhere:
        page = browser.new_page()
        page.goto(f"http://localhost:{elsewhere.port}/openapi.json")
        reading = page.evaluate(script, f"{simulator.control_url}/runs")
        page.close()

    assert reading == "kept out"
    assert simulator.take_changes() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_reads_well(page: Page, simulator: Simulator, scheme: Any) -> None:
    for script in (
        ASKED,
        "COMPLETED_WITH_NO_ACTION_TAKEN",
        "FAILED",
        f"PENDING (a_name_{'x' * 60}) 1h, COMPLETED",
    ):
        run_id = simulator.create_run(script)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    expect(row(page, run_id)).to_be_visible()

    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(CONTRASTS) == []
    row(page, run_id).get_by_role("button", name="Complete").focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


# Every text against what is behind it, by the formula of WCAG 2; what falls below 4.5 is returned.
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4)
    .reduce((sum, one, index) => sum + one * [.2126, .7152, .0722][index], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
  };
  const poor = [];
  for (const element of document.body.querySelectorAll("*")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!hasText || !element.checkVisibility() || element.matches("script, style, option")) continue;
    const [low, high] = [channels(getComputedStyle(element).color), behind(element)].map(light).sort((a, b) => a - b);
    if ((high + .05) / (low + .05) < 4.5) poor.push(element.outerHTML.slice(0, 80));
  }
  return poor;
}"""


def test_the_page_is_shown(
    page: Page, simulator: Simulator, save_screenshot: Callable[[Page, str], None]
) -> None:
    stories = [
        "PENDING 300ms, IN_PROGRESS (post_invoice) 1s, FAILED",
        "PENDING 200ms, IN_PROGRESS (find_invoices) 700ms, COMPLETED_WITH_NO_ACTION_TAKEN",
        "PENDING 300ms, AWAITING_USER_INPUT (approve) until answered, IN_PROGRESS (pay) 600ms, COMPLETED",
        "PENDING 500ms, IN_PROGRESS (post_invoice) 1s, AWAITING_USER_INPUT (approve) until answered, COMPLETED",
    ]
    run_ids = [simulator.create_run(script) for script in stories]
    for run_id in run_ids:
        page.request.get(f"{simulator.url}/api/v2/workflow-runs/{run_id}")
    page.wait_for_timeout(900)
    simulator.answer(run_ids[2])
    page.wait_for_timeout(900)

    expect(row(page, run_ids[2]).get_by_role("heading")).to_have_text("COMPLETED")
    expect(row(page, run_ids[3]).get_by_role("button", name="Answer")).to_be_visible()
    save_screenshot(page, "simulator-page")
