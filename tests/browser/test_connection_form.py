"""Airflow's connection form for Anon, as a person sees it, fills it in, saves it and presses its test button."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import airflow
import pytest
import trustme
from browser.airflow_ui import IS_AIRFLOW_2, FormOf2, FormOf3, UiAirflow
from server import Server, answer

from airflow_anon import get_provider_info
from airflow_anon.client.endpoint import EXTRAS, Endpoint
from airflow_anon.simulator import Simulator

if os.environ.get("BROWSER_TESTS") != "required":
    pytest.importorskip("playwright", reason="Playwright is in the dependency group `browser`")

if TYPE_CHECKING:
    from playwright.sync_api import Page

    Form = FormOf2 | FormOf3

pytestmark = pytest.mark.timeout(300)

TOKEN = "tok-3n-that-must-not-be-seen"
PROXY_PASSWORD = "pr0xy-pa55word"
WIDE = {"width": 1280, "height": 550}
(FORM,) = get_provider_info()["connection-types"]
# The standard fields come in Airflow's own order, which a provider cannot change.
ORDER = (
    ["description", "host", "schema", "login", "password", "port"]
    if IS_AIRFLOW_2
    else ["description", "host", "login", "password", "port", "schema"]
)
EVERYTHING = {
    "description": "the API of the blue tenant",
    "host": "anon.example/base",
    "schema": "https",
    "port": "8443",
    "login": "",
    "password": TOKEN,
    "timeout": "12.5",
    "verify": "false",
    "verify_strict": "false",
    "client_cert": "/etc/anon/client.pem",
    "client_key": "/etc/anon/client.key",
    "proxy": f"http://me:{PROXY_PASSWORD}@proxy.example:3128",
    "credential_header": "X-Api-Key",
    "credential_scheme": "Key",
    "headers": '{"X-Tenant": "blue"}',
    "max_connections": "7",
    "max_requests_per_second": "2.5",
    "run_url_template": "https://app.example/runs/{id}?of={workflow_id}",
}


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(token=TOKEN) as running:
        yield running


def everything_stored(airflow: UiAirflow) -> None:
    stored = airflow.read()

    headers = stored.pop("headers")
    assert headers["X-Api-Key"] == f"Key {TOKEN}"
    assert headers["X-Tenant"] == "blue"
    assert {TOKEN, PROXY_PASSWORD} <= set(stored.pop("secrets"))
    assert stored == {
        "conn_id": "anon_default",
        "base_url": "https://anon.example:8443/base",
        "timeout": 12.5,
        "verify": False,
        "verify_strict": False,
        "client_cert": "/etc/anon/client.pem",
        "client_key": "/etc/anon/client.key",
        "proxy": f"http://me:{PROXY_PASSWORD}@proxy.example:3128",
        "max_connections": 7,
        "max_requests_per_second": 2.5,
        "run_url_template": "https://app.example/runs/{id}?of={workflow_id}",
        "cautions": [],
    }


# What is there


def test_every_field_is_there_in_order_and_says_what_it_is_for(
    form: Form, save_screenshot: Callable[[Page, str], None]
) -> None:
    form.begin()
    save_screenshot(form.page, "connection-form")

    fields = {field.name: field for field in form.fields()}

    form.page.set_viewport_size({"width": 1280, "height": 1900})
    save_screenshot(form.page, "connection-form-extra")
    own = [name for name in fields if name not in ("connection_id", "conn_id", "extra")]
    assert own == [*ORDER, *EXTRAS]
    labels = FORM["ui-field-behaviour"]["relabeling"]
    placeholders = FORM["ui-field-behaviour"]["placeholders"]
    for name in ("host", "schema", "login", "password", "port"):
        assert fields[name].label == labels.get(name, "Port")
        assert fields[name].placeholder == placeholders[name]
    for name, field in FORM["conn-fields"].items():
        assert (fields[name].label, fields[name].help) == (field["label"], field["description"])


def test_nothing_but_the_token_is_hidden_and_nothing_is_required(form: Form) -> None:
    form.begin()

    fields = form.fields()

    assert [field.name for field in fields if field.kind == "password"] == ["password"]
    assert {field.name for field in fields if field.is_required} == {
        "conn_id" if IS_AIRFLOW_2 else "connection_id"
    }
    assert [form.value(name) for name in EXTRAS] == [""] * len(EXTRAS)


# What is stored


def test_a_form_left_blank_means_the_defaults(form: Form, ui_airflow: UiAirflow) -> None:
    form.begin()
    form.save()
    form.edit()
    form.fill(description="seen again")
    form.save()

    stored = ui_airflow.read()

    default = Endpoint.from_connection("anon_default")
    assert stored.pop("headers") == dict(default.headers)
    assert stored == {name: getattr(default, name) for name in stored} | {"cautions": [], "secrets": []}
    assert stored["base_url"] == "https://worker.anon.com"


def test_every_field_arrives_and_stays_when_it_is_saved_again(form: Form, ui_airflow: UiAirflow) -> None:
    form.begin()
    form.fill(**EVERYTHING)
    form.save()
    everything_stored(ui_airflow)

    form.edit()
    # The token and whatever may hold a password are masked, nothing else is.
    masked = {
        name
        for name in EVERYTHING
        if name not in ("login", "password") and form.value(name) != EVERYTHING[name]
    }
    shown = form.page.content()
    form.fill(description="seen again")
    form.save()

    everything_stored(ui_airflow)
    # Airflow 2 masks a token alone; whoever may edit a connection sees the rest of it.
    assert masked == (set() if IS_AIRFLOW_2 else {"proxy"})
    assert TOKEN not in shown
    assert IS_AIRFLOW_2 or PROXY_PASSWORD not in shown


@pytest.mark.skipif(IS_AIRFLOW_2, reason="it cannot delete what a field holds, as its form says")
def test_a_field_made_blank_again_means_its_default(form: Form, ui_airflow: UiAirflow) -> None:
    form.begin()
    form.fill(host="anon.example", timeout="5", max_connections="3")
    form.save()

    form.edit()
    form.fill(timeout="", max_connections="")
    form.save()

    stored = ui_airflow.read()
    assert (stored["base_url"], stored["timeout"], stored["max_connections"]) == (
        "https://anon.example",
        30.0,
        100,
    )


# The test button


def test_the_button_is_green_when_all_is_well(
    form: Form, simulator: Simulator, save_screenshot: Callable[[Page, str], None]
) -> None:
    host, port = simulator.url.removeprefix("http://").split(":")

    outcome = form.test(schema="http", host=host, port=port, password=TOKEN)

    form.page.set_viewport_size(WIDE)
    save_screenshot(form.page, "connection-test-good")
    assert outcome == (True, f"The API at {simulator.url} answers, and takes this connection.")
    assert TOKEN not in form.page.content()


def test_the_button_tells_a_token_that_is_not_accepted(
    form: Form, simulator: Simulator, save_screenshot: Callable[[Page, str], None]
) -> None:
    host, port = simulator.url.removeprefix("http://").split(":")

    outcome = form.test(schema="http", host=host, port=port, password=f"old-{TOKEN}")

    form.page.set_viewport_size(WIDE)
    save_screenshot(form.page, "connection-test-bad")
    message = f"{simulator.url} answers 401 Unauthorized. The token ('password') is missing or not accepted; for Basic, check 'login' too."
    assert outcome == (False, message)
    assert TOKEN not in form.page.content()


def test_the_button_tells_that_nothing_listens(form: Form) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]

        outcome = form.test(schema="http", host="127.0.0.1", port=str(port), password=TOKEN)

    assert outcome == (False, f"No answer from http://127.0.0.1:{port}: connection refused.")


def test_the_button_tells_a_host_without_an_address(form: Form) -> None:
    outcome = form.test(host="nowhere.invalid", port="443", password=TOKEN)

    assert outcome == (False, "No answer from https://nowhere.invalid: host name not found.")


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_the_button_tells_a_page_from_the_api(form: Form, status: str) -> None:
    page = answer(status, b"<html>Welcome</html>", "Content-Type: text/html; charset=utf-8")
    with Server(page) as server:
        outcome = form.test(host=server.url, port=str(server.port), password=TOKEN)

    assert not outcome[0]
    assert outcome[1].startswith(f"{server.url} answers ")
    assert outcome[1].endswith(" and a web page. That is not the API: check 'host'.")


def test_the_button_tells_a_certificate_that_is_not_accepted(form: Form) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    with Server(tls=tls) as server:
        outcome = form.test(host="127.0.0.1", port=str(server.port), password=TOKEN)

    message = (
        f"No answer from {server.url}: TLS certificate not accepted: unable to get local issuer certificate."
    )
    assert outcome == (False, message)


def test_the_button_tells_a_server_without_tls(form: Form, simulator: Simulator) -> None:
    host, port = simulator.url.removeprefix("http://").split(":")

    outcome = form.test(host=host, port=port, password=TOKEN)

    assert outcome == (
        False,
        f"No answer from https://{host}:{port}: the server does not speak TLS: write http:// in host if that is meant.",
    )


def test_the_button_tells_a_proxy_that_is_not_there(form: Form) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        proxy = f"http://me:{PROXY_PASSWORD}@127.0.0.1:{bound.getsockname()[1]}"

        outcome = form.test(host="anon.example", port="443", password=TOKEN, proxy=proxy)

    assert outcome == (False, "No answer from https://anon.example: proxy not reached (connection refused).")


def test_the_button_tells_a_proxy_that_wants_a_password(form: Form) -> None:
    with Server(answer("407 Proxy Authentication Required")) as proxy:
        fields = {"schema": "http", "host": "anon.example", "port": "80", "proxy": proxy.url}
        outcome = form.test(**fields)

    message = (
        "http://anon.example answers 407 Proxy Authentication Required. "
        "The proxy wants a login and password: http://login:password@proxy.example:3128 in 'proxy'."
    )
    assert outcome == (False, message)


def test_the_button_tells_a_setting_that_makes_no_sense(form: Form) -> None:
    outcome = form.test(host="anon.example", port="443", timeout="30s")

    assert outcome == (False, "timeout must be a number greater than 0 (and at most 1000000).")


@pytest.mark.skipif(
    airflow.__version__ not in ("3.3.1", "3.3.2"),
    reason="a defect of these versions, which the placeholder of the port warns of",
)
def test_airflow_itself_tests_no_connection_without_a_port(form: Form, simulator: Simulator) -> None:
    outcome = form.test(host=simulator.url, password=TOKEN)

    assert outcome == (False, "Bad Request")
