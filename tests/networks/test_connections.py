"""A connection's trouble is not the API's: what connections are kept, which are not, and what is sent again."""

from __future__ import annotations

import gc
import socket
import ssl
import time
from contextlib import suppress

import pytest
import trustme
from networks.conftest import Timed, endpoint_of
from networks.relay import Fate, Relay
from samples import RUN_ID, payload
from server import Server, answer, never, tunnel_to

from airflow_anon.client import network
from airflow_anon.client.network import SOCKET_OPTIONS, IdleLimit
from airflow_anon.core.flow import NoResponse, Request, Response
from airflow_anon.core.ids import path_of
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import poll
from airflow_anon.core.state import WaitState

OTHER_ID = "99999999-8888-4777-a666-555555555555"
RUN = answer(body=payload("IN_PROGRESS"))


def asked(run_id=RUN_ID):
    """A flow that asks once and returns the reply."""
    return (yield Request(path_of(run_id), run_id))


def polls(run_id, times):
    """The polls of one wait, whose state they share."""
    policy, state = WaitPolicy(), WaitState(run_id)
    return [poll(policy, state) for _ in range(times)]


def statuses(replies):
    return [reply.status if isinstance(reply, Response) else reply.reason for reply in replies]


# What is closed


@pytest.mark.parametrize(
    "bad",
    [
        answer("500 Oops"),
        answer("503 Busy", b"", "Connection: keep-alive"),
        answer("404 Not Found", {"id": RUN_ID}),
        answer(body=payload("COMPLETED", id=OTHER_ID)),
        answer(body=b"<html>Welcome</html>"),
        answer("204 No Content", b""),
    ],
    ids=["500", "503", "404", "another run", "a page", "nothing"],
)
def test_a_connection_that_gave_a_bad_answer_is_closed(carry_out, bad):
    with Server(RUN, bad, RUN) as server:
        carry_out(endpoint_of(server.url), *(asked() for _ in range(4)))

    assert [request.connection for request in server.asked] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "good",
    [RUN, answer(body=payload(id=RUN_ID.upper())), answer("429 Too Many Requests")],
    ids=["the run", "its id in capitals", "not now"],
)
def test_a_connection_that_gave_a_good_answer_is_kept(carry_out, good):
    with Server(good) as server:
        carry_out(endpoint_of(server.url), *(asked() for _ in range(4)))

    assert server.connections == 1


def test_a_balancer_that_keeps_connections_on_a_bad_instance_is_left(carry_out, simulator):
    run_id = simulator.create_run("PENDING")
    with Server(answer("503 Busy")) as bad, Relay(bad.port) as relay:

        def drained():
            relay.target = simulator.port

        first, second = carry_out(endpoint_of(relay.url), asked(run_id), asked(run_id), between=drained)

    assert statuses([first, second]) == [503, 200]


def together(connection):
    connection.send(RUN + answer("404 Not Found"))
    return True


def one_after_the_other(connection):
    connection.send(RUN)
    connection.wait(0.02)
    connection.send(answer("404 Not Found"))
    return True


@pytest.mark.parametrize("act", [together, one_after_the_other])
def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next(carry_out, act):
    with Server(act, RUN) as server:
        replies = carry_out(
            endpoint_of(server.url), *(asked() for _ in range(3)), between=lambda: time.sleep(0.05)
        )

    assert statuses(replies) == [200, 200, 200]
    assert len(server.asked) == 3


# What is sent again


@pytest.mark.parametrize("fate", [Fate.SWALLOW, Fate.RESET, Fate.CLOSE, Fate.CUT, Fate.STALL])
def test_what_a_used_connection_does_not_answer_is_sent_over_a_new_one_at_once(carry_out, simulator, fate):
    run_id = simulator.create_run("PENDING")
    with (
        Relay(simulator.port, lambda connection, number: fate if number == 2 else Fate.PASS) as relay,
        Timed() as timed,
    ):
        replies = carry_out(endpoint_of(relay.url, timeout=2), asked(run_id), asked(run_id))

    assert statuses(replies)[0] == 200
    if fate is not Fate.STALL:  # it has begun to answer, and so has all the time there is
        assert statuses(replies) == [200, 200]
        assert relay.requests == [(1, 1), (1, 2), (2, 1)]
        assert replies[1].at - replies[1].sent_at < 1.9
    assert timed.seconds < 3


def test_what_a_new_connection_does_not_answer_is_not_sent_again(carry_out, simulator):
    run_id = simulator.create_run("PENDING")
    for fate in (Fate.RESET, Fate.CLOSE, Fate.CUT, Fate.SWALLOW):
        with Relay(simulator.port, lambda *_: fate) as relay:  # noqa: B023
            (reply,) = carry_out(endpoint_of(relay.url, timeout=0.3), asked(run_id))

        assert isinstance(reply, NoResponse)
        assert relay.requests == [(1, 1)]


def test_both_attempts_together_take_no_longer_than_the_timeout(carry_out):
    with Server(RUN, never) as server:
        replies = carry_out(endpoint_of(server.url, timeout=0.6), asked(), asked())

    assert statuses(replies) == [200, "timed out"]
    assert 0.5 < replies[1].at - replies[1].sent_at < 1
    assert [request.connection for request in server.asked] == [1, 1, 2]


def test_a_slow_answer_over_a_new_connection_has_the_whole_timeout(carry_out):
    def slow(connection):
        connection.wait(0.8)
        connection.send(RUN)

    with Server(slow) as server:
        replies = carry_out(endpoint_of(server.url, timeout=1), asked())

    assert statuses(replies) == [200]


def test_a_slow_body_over_a_used_connection_has_the_whole_timeout(carry_out):
    def slow(connection):
        connection.send(RUN[:-10])
        connection.wait(0.7)
        connection.send(RUN[-10:])

    with Server(RUN, slow) as server:
        replies = carry_out(endpoint_of(server.url, timeout=1), asked(), asked())

    assert statuses(replies) == [200, 200]
    assert server.connections == 1


def test_an_answer_that_stays_away_in_its_middle_is_not_sent_again(carry_out):
    with Server(RUN, lambda connection: connection.send(RUN[:-1]) or connection.wait()) as server:
        replies = carry_out(endpoint_of(server.url, timeout=0.3), asked(), asked())

    assert statuses(replies) == [200, "timed out"]
    assert len(server.asked) == 2


@pytest.mark.parametrize("fate", [Fate.SWALLOW, Fate.RESET])
def test_a_gateway_that_forgets_idle_connections_costs_one_request_and_no_wait(carry_out, simulator, fate):
    run_id = simulator.create_run("PENDING")

    def forgetful(connection, number):
        return Fate.PASS if number == 1 else fate

    with Relay(simulator.port, forgetful) as relay:
        results = carry_out(
            endpoint_of(relay.url, timeout=0.4), *polls(run_id, 5), between=lambda: time.sleep(0.6)
        )

    assert {result.run.status for result in results} == {"PENDING"}
    assert len(relay.requests) == 6


def test_what_was_learnt_of_idle_connections_holds_for_ten_minutes(monkeypatch):
    limit = IdleLimit()
    now = time.monotonic()
    monkeypatch.setattr(network.time, "monotonic", lambda: now)

    limit.lost(60.0)
    told = [limit.allows(idle) for idle in (53.0, 55.0, 400.0)]
    now += 601

    assert told == [True, False, False]
    assert [limit.allows(idle) for idle in (53.0, 55.0, 400.0)] == [True, True, False]


# Keep-alive


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def tls_for(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "worker.anon.com").configure_cert(context)
    return context


def options_of_sockets_to(port):
    """Read the real sockets of this process."""
    found = set()
    for sock in (item for item in gc.get_objects() if issubclass(type(item), socket.socket)):
        with suppress(OSError):
            if sock.family == socket.AF_INET and sock.getpeername()[1] == port:
                found.add(tuple(sock.getsockopt(*option[:2]) for option in SOCKET_OPTIONS))
    return found


@pytest.mark.parametrize("through", ["http", "https", "proxy", "tunnel"])
def test_every_connection_is_kept_alive(carry_out, through, authority, tmp_path):
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    tls = tls_for(authority) if through in {"https", "tunnel"} else None
    found = []
    with Server(RUN, tls=tls) as server, Server(tunnel_to(server.port) if tls else RUN) as proxy:
        host, extra, port = server.url, {"verify": str(ca_file)} if tls else {}, server.port
        if through in {"proxy", "tunnel"}:
            host, port = f"{'https' if tls else 'http'}://worker.anon.com", proxy.port
            extra["proxy"] = proxy.url
        replies = carry_out(
            endpoint_of(host, **extra),
            asked(),
            asked(),
            between=lambda: found.append(options_of_sockets_to(port)),
        )

    assert statuses(replies) == [200, 200]
    assert found == [{(1, 45, 15, 3)}]
