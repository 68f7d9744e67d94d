"""The hook: an Airflow connection goes in, workflow runs come out, in both worlds alike."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import traceback

import pytest
from airflow.providers.common.compat.sdk import BaseHook, Connection
from server import Server, answer, never, reset, then_close

from airflow_anon.client import breaker, requests_client, shared_client
from airflow_anon.core import policy, polling
from airflow_anon.exceptions import (
    AnonAuthenticationError,
    AnonConfigurationError,
    AnonInvalidIdError,
    AnonNotFoundError,
    AnonRejectedError,
    AnonUnavailableError,
    AnonUserInputTimeoutError,
    AnonWaitTimeoutError,
    AnonWorkflowRunFailedError,
)
from airflow_anon.hooks import AnonHook
from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.simulator import Simulator

RUN = "3f0c7a52-9d1e-4b6b-8a70-1c2d3e4f5a60"
TOKEN = "token-that-nobody-may-see"
PROXY_PASSWORD = "proxy-password-that-nobody-may-see"
HIDDEN = "header-value-that-nobody-may-see"


def run_json(status="COMPLETED", **fields):
    over = status in {"COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN", "FAILED"}
    return {
        "id": RUN,
        "workflowId": "a81b2c3d-0e4f-4d5a-9b6c-7d8e9f001122",
        "status": status,
        "createdAt": "2026-01-02T03:04:05Z",
        "updatedAt": "2026-01-02T03:05:05Z",
        "completedAt": "2026-01-02T03:05:05Z" if over else None,
        "createdByUserId": "c4d5e6f7-1122-4a33-8b44-556677889900",
        "jobRunId": None,
        "currentStateName": "post_invoice",
        **fields,
    }


def run_answer(status="COMPLETED", **fields):
    return answer("200 OK", run_json(status, **fields))


class Blocking:
    """What a task on a worker calls."""

    def get(self, hook, workflow_run_id=RUN):
        with hook:
            return hook.get_workflow_run(workflow_run_id)

    def wait(self, hook, workflow_run_id=RUN, **options):
        with hook:
            return hook.wait_for_workflow_run(workflow_run_id, poke_interval=0.01, **options)

    def endpoint(self, hook):
        return hook.endpoint()


class OnALoop:
    """What a coroutine calls."""

    def get(self, hook, workflow_run_id=RUN):
        return asyncio.run(hook.aget_workflow_run(workflow_run_id))

    def wait(self, hook, workflow_run_id=RUN, **options):
        return asyncio.run(hook.await_workflow_run(workflow_run_id, poke_interval=0.01, **options))

    def endpoint(self, hook):
        return asyncio.run(hook.aendpoint())


@pytest.fixture(params=[Blocking, OnALoop])
def world(request):
    return request.param()


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(polling, "FIRST_POLL_DELAYS", (0.02,))
    monkeypatch.setattr(policy, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(polling, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(shared_client, "RELOAD_AT_MOST_EVERY", 0.0)
    monkeypatch.setattr(requests_client, "RELOAD_AT_MOST_EVERY", 0.0)
    monkeypatch.setattr(breaker, "LONGEST_QUIET", 0.01)


@pytest.fixture
def connect(monkeypatch):
    """Store the connection ``anon_default`` in the environment, and return a hook for it."""

    def store(host, *, password=TOKEN, **fields):
        extra = {"timeout": 5, **fields.pop("extra", {})}
        connection = {"conn_type": "anon", "host": host, "password": password, "extra": extra, **fields}
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", json.dumps(connection))
        return AnonHook()

    return store


@pytest.fixture
def logged(caplog, capfd):
    """Return all that was logged, at whatever level; Airflow's lines differ in where theirs go."""
    for name in (None, "airflow", "airflow.task", "airflow.task.hooks", "urllib3", "aiohttp", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    captured = []

    def text():
        captured.extend(capfd.readouterr())
        return "".join([caplog.text, *captured])

    return text


# The connection


@pytest.mark.parametrize(
    "stored",
    [
        "anon://:token@worker.anon.com",
        "anon://:token@worker.anon.com/",
        "anon://:token@worker.anon.com:443",
        "anon://:token@worker.anon.com/https",
        "anon://https://:token@worker.anon.com",
        "anon://https://:token@worker.anon.com:443",
        "anon://:token@https%3A%2F%2Fworker.anon.com",
        "anon://:token@",
        "anon://:token@worker.anon.com?timeout=5&verify=true",
        '{"conn_type": "anon", "password": "token"}',
        '{"conn_type": "anon", "host": "worker.anon.com", "password": "token"}',
        '{"conn_type": "anon", "host": "worker.anon.com", "schema": "https", "password": "token"}',
        '{"conn_type": "anon", "host": "https://worker.anon.com/", "password": "token", "extra": {}}',
        '{"conn_type": "anon", "host": "worker.anon.com", "port": 443, "password": "token", "extra": ""}',
    ],
)
def test_every_spelling_of_a_connection_means_https(world, stored, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", stored)

    endpoint = world.endpoint(AnonHook())

    assert endpoint.base_url == "https://worker.anon.com"
    assert endpoint.headers["Authorization"] == "Bearer token"


@pytest.mark.parametrize(
    "stored",
    [
        "anon://http://:token@worker.anon.com",
        "anon://:token@worker.anon.com/http",
        "anon://:token@http%3A%2F%2Fworker.anon.com",
        '{"conn_type": "anon", "host": "worker.anon.com", "schema": "http", "password": "token"}',
    ],
)
def test_plain_http_is_used_only_where_it_is_written_and_not_silently(world, stored, monkeypatch, logged):
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", stored)

    endpoint = world.endpoint(AnonHook())

    assert endpoint.base_url == "http://worker.anon.com"
    assert "plain http" in logged()


@pytest.mark.parametrize(
    ("stored", "field"),
    [
        ("anon://:token@worker.anon.com/base/path", "schema"),
        ('{"conn_type": "anon", "host": "https//worker.anon.com"}', "host"),
        ('{"conn_type": "anon", "host": "worker anon com"}', "host"),
        ('{"conn_type": "anon", "password": "***"}', "password"),
        ('{"conn_type": "anon", "extra": {"timeout": 0}}', "timeout"),
        ('{"conn_type": "anon", "extra": {"verify": "/missing/ca.pem"}}', "verify"),
        ('{"conn_type": "anon", "extra": {"client_cert": "/missing/cert.pem"}}', "client_cert"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_before_any_request(world, stored, field, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", stored)

    with pytest.raises(AnonConfigurationError, match=f"'anon_default'.*{field}") as caught:
        world.get(AnonHook())

    assert (caught.value.conn_id, caught.value.field) == ("anon_default", field)
    assert not caught.value.retryable
    assert not caught.value.is_unread
    advice = str(caught.value).removeprefix("Connection 'anon_default': ")
    assert AnonHook().test_connection() == (False, advice)


def test_a_missing_connection_is_said_to_be_missing(world):
    with pytest.raises(AnonConfigurationError) as caught:
        world.get(AnonHook("nowhere"))

    advice = "There is no such connection. Create it with type 'anon', or correct anon_conn_id."
    assert str(caught.value) == f"Connection 'nowhere': {advice}"
    assert (caught.value.conn_id, caught.value.retryable) == ("nowhere", False)
    assert caught.value.is_unread
    assert AnonHook("nowhere").test_connection() == (False, advice)


def test_a_connection_that_cannot_be_read_just_now_may_be_tried_again(world):
    class Hook(AnonHook):
        @classmethod
        def get_connection(cls, conn_id):
            raise OSError("the secrets backend is away: " + TOKEN)

    with pytest.raises(AnonConfigurationError, match=r"could not be read \(OSError\)") as caught:
        world.get(Hook())

    assert caught.value.retryable
    assert caught.value.is_unread
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


# How it is looked up


def elsewhere(conn_id):
    return Connection(conn_id=conn_id, conn_type="anon", host="elsewhere.example", password="other")


class OwnLookup(AnonHook):
    @classmethod
    def get_connection(cls, conn_id):
        return elsewhere(conn_id)


class OwnLookupOfAnInstance(AnonHook):
    def get_connection(self, conn_id):
        return elsewhere(conn_id)


class BothLookups(AnonHook):
    @classmethod
    def get_connection(cls, conn_id):
        return elsewhere(conn_id)

    @classmethod
    async def aget_connection(cls, conn_id):
        return elsewhere(conn_id)


class InheritedLookup(OwnLookup):
    pass


class AsyncLookupOnTop(OwnLookupOfAnInstance):
    async def aget_connection(self, conn_id):
        return elsewhere(conn_id)


@pytest.mark.parametrize(
    "hook_class", [OwnLookup, OwnLookupOfAnInstance, BothLookups, InheritedLookup, AsyncLookupOnTop]
)
def test_a_lookup_of_a_subclass_is_used_in_both_worlds(world, hook_class, connect):
    connect("worker.anon.com")

    assert world.endpoint(hook_class()).base_url == "https://elsewhere.example"


def test_an_async_lookup_of_a_subclass_is_preferred_on_a_loop():
    class Hook(OwnLookup):
        @classmethod
        async def aget_connection(cls, conn_id):
            return Connection(conn_id=conn_id, conn_type="anon", host="async.example")

    assert asyncio.run(Hook().aendpoint()).base_url == "https://async.example"


@pytest.mark.parametrize("own", [True, False], ids=["own lookup", "Airflow's lookup"])
def test_a_blocking_lookup_is_kept_off_the_event_loop(own, connect, monkeypatch):
    connect("worker.anon.com")
    threads = []

    class Hook(AnonHook):
        if own:

            @classmethod
            def get_connection(cls, conn_id):
                threads.append(threading.current_thread())
                return super().get_connection(conn_id)

    real = BaseHook.get_connection

    def get_connection(cls, conn_id):
        threads.append(threading.current_thread())
        return real(conn_id)

    monkeypatch.setattr(BaseHook, "get_connection", classmethod(get_connection))

    endpoint = asyncio.run(Hook().aendpoint())

    assert endpoint.base_url == "https://worker.anon.com"
    assert threading.main_thread() not in threads
    assert bool(threads) >= own


def test_a_connection_is_looked_up_once_for_many_polls(world, connect):
    looked_up = []

    class Hook(AnonHook):
        @classmethod
        def get_connection(cls, conn_id):
            looked_up.append(conn_id)
            return super().get_connection(conn_id)

    with Simulator(token=TOKEN) as simulator:
        workflow_run_id = simulator.create_run("IN_PROGRESS 9 polls, COMPLETED")
        connect(simulator.url)
        run = world.wait(Hook(), workflow_run_id)

    assert run.succeeded
    assert simulator.requests == 10
    assert simulator.connections == 1
    assert looked_up == ["anon_default"]


def test_what_masks_secrets_is_not_touched(world, monkeypatch):
    def refuse(self):
        raise AssertionError("this calls the supervisor")

    monkeypatch.setattr(Connection, "extra_dejson", property(refuse))
    monkeypatch.setattr(Connection, "get_uri", refuse)

    class Hook(AnonHook):
        @classmethod
        def get_connection(cls, conn_id):
            return Connection(conn_id=conn_id, conn_type="anon", extra='{"timeout": 7}')

    assert world.endpoint(Hook()).timeout == 7


# Polls


@pytest.mark.parametrize("status", list(WorkflowRunStatus))
def test_one_poll_returns_the_run_whatever_its_status(world, status, connect):
    with Server(run_answer(status.value)) as server:
        run = world.get(connect(server.url), f" {RUN.upper()} ")

    assert run.status is status
    assert run.to_payload() == run_json(status.value)
    assert len(server.asked) == 1


def test_short_disturbances_are_ridden_out(world, connect):
    troubles = (
        answer("503 Busy"),
        answer("429 Slow Down", b"", "Retry-After: 0"),
        reset,
        answer("404 Not Found"),
        answer(),
    )
    with Server(*troubles, run_answer()) as server:
        run = world.get(connect(server.url))

    assert run.succeeded


@pytest.mark.parametrize(
    ("said", "kind", "status"),
    [
        (answer("401 Unauthorized"), AnonAuthenticationError, 401),
        (answer("404 Not Found"), AnonNotFoundError, 404),
        (answer("302 Found", b"", "Location: /login"), AnonRejectedError, 302),
        (then_close(), AnonUnavailableError, None),
    ],
)
def test_what_cannot_be_read_is_an_error_of_the_wait(world, said, kind, status, connect, monkeypatch):
    monkeypatch.setattr(polling, "FIRST_POLL_PATIENCE", 0.03)
    with Server(said) as server, pytest.raises(kind) as caught:
        world.get(connect(server.url))

    assert type(caught.value) is kind
    assert caught.value.status_code == status
    assert caught.value.workflow_run_id == RUN
    assert caught.value.retryable is (kind is AnonUnavailableError)


def test_an_id_that_is_none_is_refused_before_any_request(world, connect):
    with Server() as server, pytest.raises(AnonInvalidIdError, match="'no-id'"):
        world.get(connect(server.url), "no-id")

    assert not server.asked


# Waits


def test_a_wait_returns_the_run_that_ended_well(world, connect):
    with Server(
        run_answer("PENDING"),
        run_answer("IN_PROGRESS"),
        answer("502 Bad Gateway"),
        reset,
        run_answer("AWAITING_USER_INPUT"),
        run_answer(),
    ) as server:
        run = world.wait(connect(server.url))

    assert run.to_payload() == run_json()


def test_a_wait_for_a_run_that_fails_raises(world, connect):
    with (
        Server(run_answer("PENDING"), run_answer("FAILED")) as server,
        pytest.raises(AnonWorkflowRunFailedError, match="post_invoice") as caught,
    ):
        world.wait(connect(server.url))

    assert caught.value.run.to_payload() == run_json("FAILED")


def test_a_wait_that_takes_too_long_raises(world, connect):
    with (
        Server(run_answer("IN_PROGRESS")) as server,
        pytest.raises(AnonWaitTimeoutError, match="IN_PROGRESS") as caught,
    ):
        world.wait(connect(server.url), timeout=0.05)

    assert type(caught.value) is AnonWaitTimeoutError
    assert caught.value.last_status == "IN_PROGRESS"
    assert caught.value.workflow_run_id == RUN


def test_user_input_that_takes_too_long_raises(world, connect):
    with Server(run_answer("AWAITING_USER_INPUT")) as server, pytest.raises(AnonUserInputTimeoutError):
        world.wait(connect(server.url), user_input_timeout=0.03)


def test_contact_that_is_lost_for_too_long_ends_a_wait(world, connect):
    with (
        Server(run_answer("IN_PROGRESS"), answer("503 Busy")) as server,
        pytest.raises(AnonUnavailableError, match="unknown") as caught,
    ):
        world.wait(connect(server.url), outage_tolerance=0.05)

    assert caught.value.retryable
    assert (caught.value.status_code, caught.value.last_status) == (503, "IN_PROGRESS")


def test_a_token_that_was_rotated_is_taken_up(world, connect):
    def rotate(connection):
        connect(connection.server.url, password="rotated")
        connection.send(answer("401 Unauthorized"))
        return True

    with Server(run_answer("IN_PROGRESS"), rotate, run_answer()) as server:
        run = world.wait(connect(server.url))

    assert run.succeeded
    assert [asked.header("Authorization") for asked in server.asked] == [
        f"Bearer {TOKEN}",
        f"Bearer {TOKEN}",
        "Bearer rotated",
    ]


def test_a_refusal_that_passes_by_itself_is_ridden_out(world, connect):
    with Server(run_answer("IN_PROGRESS"), answer("403 Forbidden"), run_answer()) as server:
        run = world.wait(connect(server.url))

    assert run.succeeded
    assert len(server.asked) == 3


def test_a_hook_that_was_closed_can_be_used_again(connect):
    with Server(run_answer()) as server:
        hook = connect(server.url)
        for _ in range(2):
            hook.get_workflow_run(RUN)
            hook.get_workflow_run(RUN)
            hook.close()
        hook.close()

    assert server.connections == 2


def test_waits_on_one_loop_do_not_disturb_each_other(connect):
    async def wait_for_all(hook, ids):
        waits = (hook.await_workflow_run(run_id, poke_interval=0.01) for run_id in ids)
        return await asyncio.gather(*waits, return_exceptions=True)

    with Simulator(token=TOKEN) as simulator:
        ids = [
            simulator.create_run(f"IN_PROGRESS {n} polls, {end}")
            for n, end in [(1, "COMPLETED"), (4, "FAILED")]
        ]
        good, bad = asyncio.run(wait_for_all(connect(simulator.url), ids))

    assert good.id == ids[0]
    assert isinstance(bad, AnonWorkflowRunFailedError)


def test_a_wait_that_is_cancelled_ends_at_once_and_touches_nothing(connect):
    async def cancel(hook, server):
        task = asyncio.create_task(hook.await_workflow_run(RUN, poke_interval=60))
        while not server.asked:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Server(never) as server:
        asyncio.run(cancel(connect(server.url), server))

    assert [asked.line.split()[0] for asked in server.asked] == ["GET"]


# Whether a connection is any good


@pytest.mark.parametrize(
    ("said", "good", "words"),
    [
        (answer("404 Not Found", {"error": "no such run"}), True, "takes this connection"),
        (answer("401 Unauthorized"), False, "401 Unauthorized"),
        (answer("404 Not Found", b"<html>", "Content-Type: text/html; charset=utf-8"), False, "web page"),
        (reset, False, "connection lost"),
        (never, False, "timed out"),
    ],
)
def test_a_connection_is_tested_with_one_harmless_poll(said, good, words, connect):
    with Server(said) as server:
        # A busy machine takes its time; only for what never comes is it short.
        timeout = 0.3 if said is never else 20
        outcome = connect(server.url, extra={"timeout": timeout}).test_connection()

    assert outcome[0] is good
    assert words in outcome[1]
    assert server.url in outcome[1]
    assert f"{server.url}/" not in outcome[1]
    assert TOKEN not in outcome[1]
    assert {asked.line for asked in server.asked} == {
        "GET /api/v2/workflow-runs/00000000-0000-0000-0000-000000000000 HTTP/1.1"
    }
    assert len(server.asked) == 1


def test_a_test_leaves_no_connection_open(connect):
    with Server(answer("404 Not Found")) as server:
        hook = connect(server.url)
        hook.test_connection()
        hook.test_connection()

    assert server.connections == 2
