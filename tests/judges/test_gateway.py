"""A gateway of nginx with TLS, reached through tinyproxy or not: what stands before an API in the field."""

from __future__ import annotations

import datetime as dt
import json
from types import SimpleNamespace

import pytest
import trustme
from carry_out import MODES, carry_out, moving_time
from judges.programs import find
from loopback import free_port

from airflow_anon.exceptions import AnonRejectedError, AnonUnavailableError
from airflow_anon.sensors import AnonWorkflowRunSensor
from airflow_anon.simulator import MovableClock, Simulator

TOKEN = "token-that-nobody-may-see"
PROXY_PASSWORD = "proxy-password-that-nobody-may-see"
YESTERDAY = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def authority(folder):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    mine = authority.issue_cert("me@example.com")
    mine.private_key_and_cert_chain_pem.write_to_path(str(folder / "me.pem"))
    stranger = trustme.CA().issue_cert("stranger@example.com")
    stranger.private_key_and_cert_chain_pem.write_to_path(str(folder / "stranger.pem"))
    return authority


@pytest.fixture(scope="module")
def behind():
    """The API behind the gateway."""
    with Simulator(token=TOKEN, clock=MovableClock()) as simulator:
        yield simulator


@pytest.fixture
def simulator(behind):
    behind.reset()
    return behind


SERVER = """
server {{
    listen {here}:{port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    {more}
    location / {{ proxy_pass {url}; }}
}}
"""
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""


@pytest.fixture(scope="module")
def gateway(serve, folder, authority, behind):
    """Ports of nginx, by what is the matter with TLS there."""
    certificates = {
        "good": authority.issue_cert(HERE),
        "wrong name": authority.issue_cert("elsewhere.example"),
        "expired": authority.issue_cert(
            HERE, not_before=YESTERDAY - dt.timedelta(days=1), not_after=YESTERDAY
        ),
        "unknown authority": trustme.CA().issue_cert(HERE),
        "mutual": authority.issue_cert(HERE),
    }
    mutual = f"ssl_client_certificate {folder}/ca.pem; ssl_verify_client on;"
    ports, servers = {}, []
    for number, (name, certificate) in enumerate(certificates.items()):
        path = folder / f"{number}.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
        ports[name] = free_port()
        servers.append(
            SERVER.format(
                here=HERE,
                port=ports[name],
                certificate=path,
                more=mutual if name == "mutual" else "",
                url=behind.url,
            )
        )
    settings = folder / "nginx.conf"
    settings.write_text(NGINX.format(folder=folder, servers="".join(servers)))
    serve([find("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(settings)], ports["good"])
    return ports


TINYPROXY = """
Port {port}
Listen 127.0.0.1
Allow 127.0.0.1
Timeout 60
LogFile "{log}"
LogLevel Connect
{more}
"""


@pytest.fixture(scope="module")
def proxies(serve, folder):
    """Two tinyproxies: one lets everybody through, the other demands a login."""
    found = {}
    for name, more in {"open": "", "guarded": f"BasicAuth me {PROXY_PASSWORD}"}.items():
        port, settings, log = free_port(), folder / f"{name}.conf", folder / f"{name}.log"
        settings.write_text(TINYPROXY.format(port=port, log=log, more=more))
        serve([find("tinyproxy"), "-d", "-c", str(settings)], port)
        found[name] = SimpleNamespace(port=port, log=log)
    return found


def with_login(port, password):
    return f"http://me:{password}@{HERE}:{port}"


@pytest.fixture(params=["straight", "through an open proxy", "through a guarded proxy", "by the environment"])
def way(request, monkeypatch):
    """What the connection's extra says of the way to the gateway, and the log that shows it was taken."""
    if request.param == "straight":
        return {}, None
    proxies = request.getfixturevalue("proxies")
    if request.param == "through an open proxy":
        return {"proxy": f"http://{HERE}:{proxies['open'].port}"}, proxies["open"].log
    url = with_login(proxies["guarded"].port, PROXY_PASSWORD)
    if request.param == "by the environment":
        monkeypatch.setenv("HTTPS_PROXY", url)
        return {}, proxies["guarded"].log
    return {"proxy": url}, proxies["guarded"].log


@pytest.fixture
def connect(monkeypatch, folder, authority):
    """Let ``anon_default`` lead to a URL; the test's own authority is trusted."""

    def connect(url, **extra):
        extra = {"verify": str(folder / "ca.pem"), "timeout": 5, **extra}
        connection = {"conn_type": "anon", "host": url, "password": TOKEN, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", json.dumps(connection))

    return connect


@pytest.fixture
def clock(simulator):
    with moving_time(simulator) as clock:
        yield clock


def refused(polled, run_id, kind):
    """Return the error of a poll that comes to nothing; it shows no secret."""
    with pytest.raises(kind) as caught:
        polled(run_id)
    assert TOKEN not in str(caught.value)
    assert PROXY_PASSWORD not in str(caught.value)
    return caught.value


def test_a_run_is_read_over_tls(polled, way, connect, gateway, simulator):
    extra, log = way
    before = log.read_text() if log else ""
    connect(f"https://{HERE}:{gateway['good']}", **extra)
    run_id = simulator.create_run()

    run = polled(run_id)

    assert run.succeeded
    assert simulator.requests_for(run_id) == 1
    if log:
        assert f"CONNECT {HERE}:{gateway['good']}" in log.read_text().removeprefix(before)


def test_a_run_is_read_over_mutual_tls(polled, way, connect, gateway, simulator, folder):
    connect(f"https://{HERE}:{gateway['mutual']}", client_cert=str(folder / "me.pem"), **way[0])

    assert polled(simulator.create_run()).succeeded


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("wrong name", "certificate is not valid for '127.0.0.1'"),
        ("expired", "certificate has expired"),
        ("unknown authority", "unable to get local issuer certificate"),
    ],
)
def test_a_certificate_that_does_not_hold_is_reported(
    polled, way, connect, gateway, simulator, clock, trouble, said
):
    connect(f"https://{HERE}:{gateway[trouble]}", **way[0])

    error = refused(polled, simulator.create_run(), AnonUnavailableError)

    assert "TLS certificate not accepted: " in str(error)
    assert said in str(error)
    assert simulator.requests == 0


@pytest.mark.parametrize("shown", [None, "stranger.pem"])
def test_a_client_without_the_right_certificate_hears_what_the_gateway_says(
    polled, way, connect, gateway, simulator, folder, shown
):
    extra = {"client_cert": str(folder / shown)} if shown else {}
    connect(f"https://{HERE}:{gateway['mutual']}", **extra, **way[0])

    error = refused(polled, simulator.create_run(), AnonRejectedError)

    assert error.status_code == 400
    assert simulator.requests == 0


def test_plain_http_goes_through_a_proxy(polled, connect, proxies, simulator):
    proxy = proxies["guarded"]
    before = proxy.log.read_text()
    connect(simulator.url, proxy=with_login(proxy.port, PROXY_PASSWORD))

    assert polled(simulator.create_run()).succeeded
    assert f"GET {simulator.url}/" in proxy.log.read_text().removeprefix(before)


@pytest.mark.parametrize("login", [None, "wrong"])
def test_a_proxy_that_lets_nobody_through_is_reported(
    polled, connect, gateway, proxies, simulator, clock, login
):
    port = proxies["guarded"].port
    connect(
        f"https://{HERE}:{gateway['good']}",
        proxy=with_login(port, login) if login else f"http://{HERE}:{port}",
    )

    error = refused(polled, simulator.create_run(), AnonUnavailableError)

    assert "the proxy did not connect" in str(error)
    assert simulator.requests == 0


# tinyproxy asks for a credential with 407, and refuses a wrong one with 401.
@pytest.mark.parametrize(("login", "status"), [(None, 407), ("wrong", 401)])
def test_a_proxy_that_lets_nobody_through_is_reported_over_plain_http(
    polled, connect, proxies, simulator, login, status
):
    port = proxies["guarded"].port
    connect(simulator.url, proxy=with_login(port, login) if login else f"http://{HERE}:{port}")

    error = refused(polled, simulator.create_run(), AnonRejectedError)

    assert error.status_code == status
    assert simulator.requests == 0


@pytest.mark.parametrize("mode", MODES)
def test_the_sensor_waits_through_all_of_it(mode, connect, gateway, proxies, simulator, clock, folder):
    connect(
        f"https://{HERE}:{gateway['mutual']}",
        client_cert=str(folder / "me.pem"),
        proxy=with_login(proxies["guarded"].port, PROXY_PASSWORD),
    )
    run_id = simulator.create_run("PENDING 2m, IN_PROGRESS 5m, COMPLETED")

    story = carry_out(
        lambda: AnonWorkflowRunSensor(task_id="wait", workflow_run_id=run_id, **MODES[mode]), clock
    )

    assert story.state == "success", story.error
    assert story.xcom == simulator.run(run_id)
