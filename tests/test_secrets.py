"""No secret of a connection is shown anywhere, whatever goes wrong, even if the API itself repeats it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import runpy
import traceback
from base64 import b64encode
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace
from unittest import mock
from urllib.parse import quote

import carry_out as harness
import pytest
from airflow.models.trigger import Trigger
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_1_PLUS
from airflow.utils.session import create_session
from carry_out import MODES, carry_out, moving_time
from samples import RUN_ID, payload
from server import Server, answer, reset, then_close

import airflow_anon
from airflow_anon.exceptions import AnonConfigurationError, AnonError
from airflow_anon.hooks import AnonHook
from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.sensors import AnonWorkflowRunSensor
from airflow_anon.triggers import AnonWorkflowRunTrigger

MARK = "MARKED"
TOKEN = f"t0ken/{MARK}+1="
LOGIN = f"login{MARK}é"
HEADER = f'header "{MARK}" 2'
PROXY_LOGIN, PROXY_PASSWORD = f"proxy{MARK}", f"p@ss{MARK}/3"
PACKAGE = airflow_anon.__path__[0]

CREDENTIALS = {"token": {"password": TOKEN}, "login": {"login": LOGIN, "password": TOKEN}}


def encoded(*words):
    return b64encode(":".join(words).encode()).decode()


SECRETS = [MARK, encoded(LOGIN, TOKEN), encoded(PROXY_LOGIN, PROXY_PASSWORD)]


# An API that repeats what was sent to it


def sent_to(connection):
    """All that the client has sent, which a server may put anywhere."""
    return connection.server.asked[-1].raw


def repeats(status):
    """An answer that has the client's secrets in its reason, its headers and its body."""

    def act(connection):
        heard = sent_to(connection).decode("latin1")
        spellings = [*connection.server.secrets, heard]
        spellings += [quote(text, safe="") for text in spellings]
        body = json.dumps({"message": spellings}).encode() + b"\x1b[31m\x00" + heard.encode("latin1") * 9
        headers = [
            f"Location: https://{quote(TOKEN, safe='')}@elsewhere.example/?token={TOKEN}",
            f"Retry-After: {TOKEN}",
            f"WWW-Authenticate: Bearer {TOKEN}",
            f"Set-Cookie: {TOKEN}={TOKEN}; Expires={TOKEN}",
            f"Date: {TOKEN}",
            "Content-Type: application/json",
        ]
        connection.send(answer(f"{status} {TOKEN}", body, *headers))
        return True

    return act


def no_headers(connection):
    heard = sent_to(connection).replace(b":", b" ")
    connection.send(b"HTTP/1.1 200 OK\r\nX: 1\r\n" + heard.replace(b"\r\n\r\n", b"\r\n") + b"Y: 2\r\n\r\n")


def no_http(connection):
    connection.send(sent_to(connection))


def run(status, **fields):
    return answer("200 OK", payload(status, **fields))


GOOD = run("IN_PROGRESS", currentStateName="post_invoice")
# What the API answers, the last for ever.
ROWS = {
    "failed": [run("FAILED")],
    "failed later": [GOOD, run("FAILED")],
    "unknown end": [run("CANCELLED", completedAt="2023-11-14T22:11:00Z")],
    "time is over": [GOOD],
    "refused": [repeats(401)],
    "forbidden": [repeats(403)],
    "not found": [repeats(404)],
    "refused later": [GOOD, repeats(401)],
    "not found later": [GOOD, repeats(404)],
    "bad request": [repeats(400)],
    "gone later": [GOOD, repeats(422)],
    "redirected": [repeats(302)],
    "asked to wait": [repeats(429)],
    "busy later": [GOOD, repeats(503)],
    "no run": [GOOD, repeats(200)],
    "another run": [run("COMPLETED", id="6e1f0c52-9d1e-4b6b-8a70-1c2d3e4f5a60")],
    "reset": [reset],
    "reset later": [GOOD, reset],
    "cut": [GOOD, then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")],
    "no headers": [GOOD, no_headers],
    "no HTTP": [GOOD, no_http],
    "too long": [GOOD, answer("200 OK", b" " * 2**21)],
}


# What is looked through


@pytest.fixture(autouse=True)
def _nothing_masked(monkeypatch):
    """Airflow would mask what it knows to be secret: this is about what is not there to be masked."""
    for name in ("airflow._shared.secrets_masker", "airflow.sdk._shared.secrets_masker"):
        with suppress(ImportError):
            monkeypatch.setattr(import_module(name).SecretsMasker, "add_mask", lambda *_, **__: None)
    for name in ("airflow.sdk.execution_time.secrets_masker", "airflow.utils.log.secrets_masker"):
        with suppress(ImportError, AttributeError):
            monkeypatch.setattr(import_module(name).SecretsMasker, "add_mask", lambda *_, **__: None)


@pytest.fixture
def logged(caplog, capfd):
    """Everything that is logged, at DEBUG: by Airflow 3 to stdout, by all others through logging."""
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "requests", "aiohttp", "asyncio", "airflow_anon", "airflow.task"):
        caplog.set_level(logging.DEBUG, logger=name)

    def logged():
        out, err = capfd.readouterr()
        return "\n".join([caplog.text, *map(str, (vars(record) for record in caplog.records)), out, err])

    return logged


def shown_by_api_server(row):
    """What Airflow 3's API answers about a trigger."""
    if not AIRFLOW_V_3_0_PLUS:
        return []
    from airflow.api_fastapi.core_api.datamodels.trigger import TriggerResponse

    row.id, row.queue = 1, None
    return [TriggerResponse.model_validate(row, from_attributes=True).model_dump_json()]


@pytest.fixture
def handed_over(monkeypatch):
    """Everything that a trigger was made of, as Airflow's database and its API have it."""
    seen = []
    real = harness._run_trigger

    def run_trigger(path, kwargs, *rest, **attributes):
        row = Trigger(classpath=path, kwargs=kwargs)
        seen.extend([json.dumps(row._decrypt_kwargs(row.encrypted_kwargs)), repr(row), str(vars(row))])
        seen.extend(shown_by_api_server(row))
        seen.append(repr(AnonWorkflowRunTrigger(**kwargs)) + str(vars(AnonWorkflowRunTrigger(**kwargs))))
        return real(path, kwargs, *rest, **attributes)

    monkeypatch.setattr(harness, "_run_trigger", run_trigger)
    return seen


class Kept:
    """A task state store that shows what it holds."""

    def __init__(self):
        self.values = {}

    def get(self, key):
        return json.loads(self.values[key]) if key in self.values else None

    def set(self, key, value):
        self.values[key] = json.dumps(value)


def shown_by(error):
    """All that can be shown of an error: the chain, its data, and the variables of our own frames."""
    if not isinstance(error, BaseException):
        return [str(error)]
    shown = ["".join(traceback.format_exception(error)), repr(error), repr(vars(error))]
    if isinstance(error, AnonError):
        shown.append(json.dumps(error.to_payload()))
    queue = [traceback.TracebackException.from_exception(error, capture_locals=True)]
    while queue:
        item = queue.pop()
        if item is None:
            continue
        queue += [item.__cause__, None if item.__suppress_context__ else item.__context__]
        frames = [frame for frame in item.stack if frame.filename.startswith(PACKAGE)]
        shown += [f"{frame.filename}:{frame.lineno} {frame.locals}" for frame in frames]
    return shown


def found_in(*texts):
    """Name the texts that show a secret."""
    return [
        text[max(0, text.index(word) - 300) : text.index(word) + 60]
        for text in texts
        for word in SECRETS
        if word in text
    ]


@pytest.fixture(params=CREDENTIALS)
def credential(request):
    return CREDENTIALS[request.param]


@pytest.fixture(params=[False, True], ids=["direct", "proxied"])
def connect(request, credential, monkeypatch):
    """Make ``anon_default`` lead to a server, with every secret that a connection can have."""

    def connect(server, **fields):
        extra = {"headers": {"X-Secret": HEADER}, "timeout": 2, **fields.pop("extra", {})}
        host = server.url
        if request.param:
            host = "http://127.0.0.1:9"
            login = f"{quote(PROXY_LOGIN)}:{quote(PROXY_PASSWORD, safe='')}"
            extra["proxy"] = f"http://{login}@{server.authority}"
        connection = {"conn_type": "anon", "host": host, "extra": extra, **credential, **fields}
        server.secrets = [
            *credential.values(),
            HEADER,
            *([PROXY_LOGIN, PROXY_PASSWORD] if request.param else []),
        ]
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", json.dumps(connection))

    return connect


# Every kind of secret at least once, in as few cases as that takes.
EACH_SECRET = (("token", False), ("login", True))
each_secret = pytest.mark.parametrize(("credential", "connect"), EACH_SECRET, indirect=True)


def polled(hook):
    return hook.get_workflow_run(RUN_ID)


def polled_async(hook):
    return asyncio.run(hook.aget_workflow_run(RUN_ID))


@pytest.mark.parametrize("polled", [polled, polled_async])
@pytest.mark.parametrize(
    "fields",
    [
        {"extra": {"timeout": 0}},
        {"extra": {"headers": {"X-Secret": f"{HEADER}\n"}}},
        {"extra": {"headers": {f"X {MARK}": HEADER}}},
        {"extra": {"proxy": f"http://{PROXY_LOGIN}:{MARK}@[proxy"}},
        {"extra": {"verify": "/nowhere/ca.pem"}, "host": "https://127.0.0.1:9"},
        {"extra": {"client_cert": "/nowhere/cert.pem"}, "host": "https://127.0.0.1:9"},
        {"extra": f'{{"headers": {{"X-Secret": "{MARK}"'},
        {"host": f"https://{LOGIN}:{TOKEN}@worker.example"},
        {"host": f"https://worker.example/?token={TOKEN}"},
        {"password": f"{TOKEN} {TOKEN}", "login": ""},
        {"port": 70000},
        {"schema": "ftp"},
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_shows_no_secret(fields, polled, credential, monkeypatch, logged):
    extra = {"headers": {"X-Secret": HEADER}, "proxy": f"http://{PROXY_LOGIN}:{MARK}@127.0.0.1:9"}
    given = fields.get("extra", {})
    connection = {"conn_type": "anon", "host": "https://worker.example", **credential, **fields}
    connection["extra"] = given if isinstance(given, str) else extra | given
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", json.dumps(connection))
    hook = AnonHook()

    with pytest.raises(AnonConfigurationError) as caught:
        polled(hook)

    assert not found_in(*shown_by(caught.value), str(hook.test_connection()), logged())


@pytest.mark.parametrize("polled", [polled, polled_async])
def test_a_proxy_of_the_environment_shows_no_secret(polled, credential, monkeypatch, logged):
    monkeypatch.setenv("HTTPS_PROXY", f"socks5://{PROXY_LOGIN}:{MARK}@127.0.0.1:9")
    connection = {"conn_type": "anon", "host": "https://worker.example", **credential}
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", json.dumps(connection))

    with pytest.raises(AnonConfigurationError) as caught:
        polled(AnonHook())

    assert not found_in(*shown_by(caught.value), logged())


@pytest.mark.parametrize("polled", [polled, polled_async])
def test_a_connection_that_cannot_be_read_shows_no_secret(polled, logged):
    class Hook(AnonHook):
        @classmethod
        def get_connection(cls, conn_id):
            raise ValueError(f"Invalid connection string: anon://:{TOKEN}@host")

    with pytest.raises(AnonConfigurationError) as caught:
        polled(Hook())

    assert not found_in(*shown_by(caught.value), logged())


@pytest.mark.parametrize(
    ("host", "warned"),
    [("http://127.0.0.1:9", False), ("http://10.0.0.1", True), ("https://10.0.0.1", False)],
)
def test_a_credential_over_plain_http_is_warned_of(host, warned, credential, monkeypatch, logged):
    connection = {"conn_type": "anon", "host": host, **credential}
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", json.dumps(connection))

    AnonHook().endpoint()

    log = logged()
    assert (f"'anon_default' sends its credential to {host[7:]} over plain http" in log) is warned
    assert not found_in(log)


@pytest.mark.parametrize("row", ["bad request", "refused", "not found", "redirected"])
def test_the_beginning_of_what_the_api_says_is_shown(row, connect):
    with Server(*ROWS[row]) as server, moving_time(SimpleNamespace(advance=lambda _: None)):
        connect(server)
        with pytest.raises(AnonError) as caught:
            polled(AnonHook())

    said = str(caught.value).partition("The API says: ")[2].partition(" Asked: ")[0]
    assert said.startswith('{"message": ["***", "***"')
    assert len(said) <= 203
    assert said.isprintable()


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("row", "mode", "credential", "connect"),
    # By turns, so that each row and each mode meets every secret.
    [
        (row, mode, *EACH_SECRET[(nth_row + nth_mode) % 2])
        for nth_row, row in enumerate(ROWS)
        for nth_mode, mode in enumerate(MODES)
    ],
    indirect=["credential", "connect"],
)
def test_no_way_of_failing_shows_a_secret(row, mode, connect, logged, handed_over):
    store, tasks = Kept(), []

    def make_task():
        tasks.append(
            AnonWorkflowRunSensor(
                task_id="wait",
                workflow_run_id=RUN_ID,
                poke_interval=30,
                timeout=400,
                outage_tolerance=100,
                **MODES[mode],
            )
        )
        return tasks[-1]

    with Server(*ROWS[row]) as server, moving_time(SimpleNamespace(advance=lambda _: None)) as clock:
        connect(server)
        story = carry_out(make_task, clock, keeps=False, context={"task_state_store": store})
        hook = AnonHook()
        client = hook.get_conn()
        objects = [*tasks, *(task.hook for task in tasks), hook, client, client.endpoint, client.session]
        hook.close()

    assert story.state in {"failed", "up_for_retry"}
    log = logged()
    assert not found_in(*shown_by(story.error), log)
    assert not found_in(*map(json.dumps, [story.events, story.xcom, store.values]), *story.log, *handed_over)
    assert not found_in(*map(str, story.links))
    assert not found_in(
        *map(repr, objects), *(str(vars(hook)) for hook in objects if isinstance(hook, AnonHook))
    )
    assert not found_in(*(str(getattr(task, name)) for task in tasks for name in task.template_fields))


# What Airflow's API server shows of a task

OF_TASKS = "/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances"


@pytest.fixture(scope="module")
def api_server(database):
    """A client of Airflow's API server, which is let in."""
    settings = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API_AUTH__JWT_SECRET": "made up for this test, " * 4,
    }
    create_app = import_module("airflow.api_fastapi.app").create_app
    with (
        mock.patch.dict(os.environ, settings),
        import_module("fastapi.testclient").TestClient(create_app("core")) as client,
    ):
        client.headers["Authorization"] = f"Bearer {client.get('/auth/token').json()['access_token']}"
        yield client


def shown_of_task(api_server, dag_run_id):
    """Ask for whatever the server has to tell of a task; return what it answers, by path."""
    names = {"dag_id": "link_deferred", "dag_run_id": dag_run_id, "task_id": "wait", "map_index": "-1"}
    names |= {"try_number": "1", "task_try_number": "1"}
    shown, keys = {}, {}
    paths = [path for path, methods in api_server.app.openapi()["paths"].items() if "get" in methods]
    for path in sorted(path for path in paths if path.startswith(OF_TASKS)):
        for key in keys.get(path.rpartition("/")[0], [""]):
            answer = api_server.get(path.format(**names, key=key, xcom_key=key))
            shown[path.removeprefix(OF_TASKS) + key] = answer.text
            if not key:
                keys[path] = re.findall('"key":"([^"]+)"', answer.text)
    return shown


@pytest.mark.unmeasured
@each_secret
@pytest.mark.skipif(
    not AIRFLOW_V_3_1_PLUS, reason="what dag.test() runs is not known to an earlier API server"
)
def test_the_api_server_shows_no_secret_of_a_task_but_its_link(connect, database, api_server, monkeypatch):
    model = import_module("airflow.models.taskinstance").TaskInstance
    shown = []

    def ask(**fields):
        with create_session() as session:
            of_dag = session.query(model).filter(model.dag_id == "link_deferred")
            dag_run_id = max(ti.run_id for ti in of_dag)
            if fields:
                of_dag.filter(model.run_id == dag_run_id).update(fields)
        shown.append(shown_of_task(api_server, dag_run_id))

    async def coalesced_sleep(seconds):
        ask(state="deferred")  # dag.test() would have it queued

    monkeypatch.setattr("airflow_anon.client.aiohttp_client.coalesced_sleep", coalesced_sleep)
    dag = runpy.run_path(str(database / "links.py"))["DAGS"]["deferred"]
    with Server(*ROWS["not found later"]) as server:
        connect(server)
        dag.test(run_conf={"run": RUN_ID})
    ask()

    deferred, failed = shown
    for answers, state in ((deferred, "deferred"), (failed, "failed")):
        assert f'"state":"{state}"' in answers["/{task_id}/{map_index}"]
        assert (
            '"classpath":"airflow_anon.triggers.AnonWorkflowRunTrigger"' in answers["/{task_id}/{map_index}"]
        )
        assert f'"workflow_run_id":"{RUN_ID}"' in answers["/{task_id}/{map_index}"]
        assert f'"state":"{state}"' in answers["/{task_id}/tries"]
        links = json.loads(answers["/{task_id}/links"])
        assert links["total_entries"] == 1
        assert links["extra_links"]["Anon run"].endswith(f"/api/v2/workflow-runs/{RUN_ID}")
        assert RUN_ID in answers["/{task_id}/xcomEntries/{xcom_key}_link_AnonWorkflowRunLink"]
        assert not found_in(*answers.values())


def test_the_log_that_is_searched_has_what_libraries_say(connect, logged):
    with Server(answer("401 No")) as server:
        connect(server)
        with pytest.raises(AnonError):
            AnonWorkflowRunOperator(task_id="t", workflow_run_id=RUN_ID).execute({})

    assert "DEBUG" in (log := logged())
    assert "Starting new HTTP connection" in log
