"""What was read once is read again when it stops working: the connection, and the files that it names."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time

import pytest
import trustme
from networks.conftest import endpoint_of
from networks.test_connections import tls_for
from samples import RUN_ID, payload
from server import Server, answer

from airflow_anon.client import network, requests_client
from airflow_anon.client.network import Troubles, explain, ssl_context
from airflow_anon.client.requests_client import Client
from airflow_anon.core.flow import NoResponse, Request
from airflow_anon.core.ids import path_of
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import poll
from airflow_anon.core.state import WaitState
from airflow_anon.hooks import AnonHook

# Each poll opens a connection of its own.
RUN = answer("200 OK", payload(), "Connection: close")


def on_a_worker(flows, between):
    results = []
    with AnonHook() as hook:
        for flow in flows:
            results.append(hook.drive(flow))
            between()
    return results


def in_a_triggerer(flows, between):
    async def main():
        hook, results = AnonHook(), []
        client = hook.acquire()
        try:
            for flow in flows:
                results.append(await hook.adrive(flow))
                between()
        finally:
            await client.release()
        return results

    return asyncio.run(main())


@pytest.fixture(params=[on_a_worker, in_a_triggerer], ids=["worker", "triggerer"])
def polled(request, monkeypatch):
    """Poll a run several times, with something done after each poll; return whether each was answered."""

    def connect(url, **extra):
        connection = {"conn_type": "anon", "host": url, "extra": {"timeout": 2, **extra}}
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", json.dumps(connection))

    def polled(*changes):
        steps = iter([*changes, lambda: None])
        policy, state = WaitPolicy(), WaitState(RUN_ID)
        flows = [poll(policy, state) for _ in range(len(changes) + 1)]

        def change():
            next(steps)()

        results = request.param(flows, change)
        return [result.run is not None for result in results]

    polled.connect = connect
    return polled


def test_a_ca_file_that_was_renewed_is_read_again_within_the_poll(polled, tmp_path):
    old, new, ca_file = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    old.cert_pem.write_to_path(str(ca_file))

    def renew():
        server.tls = tls_for(new)
        new.cert_pem.write_to_path(str(ca_file))

    with Server(RUN, tls=tls_for(old)) as server:
        polled.connect(server.url, verify=str(ca_file))
        assert polled(renew, lambda: None) == [True, True, True]


def test_a_file_that_is_just_being_written_ends_no_wait(polled, tmp_path, monkeypatch):
    old, new, ca_file = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    old.cert_pem.write_to_path(str(ca_file))
    monkeypatch.setattr(requests_client, "RELOAD_AT_MOST_EVERY", 0.0)
    monkeypatch.setattr("airflow_anon.client.shared_client.RELOAD_AT_MOST_EVERY", 0.0)

    def begin_to_renew():
        server.tls = tls_for(new)
        ca_file.write_text("-----BEGIN CERT")

    with Server(RUN, tls=tls_for(old)) as server:
        polled.connect(server.url, verify=str(ca_file))
        answered = polled(begin_to_renew, lambda: new.cert_pem.write_to_path(str(ca_file)))

    assert answered == [True, False, True]


def test_a_file_that_is_gone_for_a_moment_ends_no_wait_either(polled, tmp_path):
    old, ca_file = trustme.CA(), tmp_path / "ca.pem"
    old.cert_pem.write_to_path(str(ca_file))

    def lose():
        server.tls = tls_for(trustme.CA())
        ca_file.unlink()

    with Server(RUN, tls=tls_for(old)) as server:
        polled.connect(server.url, verify=str(ca_file))
        assert polled(lose) == [True, False]


def test_a_host_that_has_moved_is_found_within_the_poll(polled):
    with Server(RUN) as here, Server(RUN) as there:
        here.acts.append(answer("503 Gone", b"", "Connection: close"))
        polled.connect(here.url)
        assert polled(lambda: polled.connect(there.url), lambda: None) == [True, True, True]


def test_a_name_that_is_looked_up_slowly_takes_no_longer_than_the_request(monkeypatch):
    looked_up = []

    def getaddrinfo(*args, **kwargs):
        looked_up.append(args)
        time.sleep(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = Client(endpoint_of("http://worker.anon.com", timeout=0.2))
    begun = time.monotonic()

    reply = client.send(Request(path_of(RUN_ID)))

    assert time.monotonic() - begun < 8
    assert isinstance(reply, NoResponse)
    assert (reply.reason, len(looked_up)) == ("timed out", 1)


def test_a_name_without_an_address_is_not_found(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])

    reply = Client(endpoint_of("http://worker.anon.com")).send(Request(path_of(RUN_ID)))

    assert reply.reason == "host name not found"


def test_certificates_without_a_key_identifier_are_taken_only_if_so_wished(monkeypatch):
    create = ssl.create_default_context

    def as_from_python_3_13_on(*args, **kwargs):
        context = create(*args, **kwargs)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(network.ssl, "create_default_context", as_from_python_3_13_on)

    for strict in (True, False):
        context = ssl_context(endpoint_of("https://worker.anon.com", verify_strict=strict))
        assert bool(context.verify_flags & ssl.VERIFY_X509_STRICT) is strict


def test_a_certificate_that_is_refused_for_want_of_one_names_the_switch():
    error = ssl.SSLCertVerificationError()
    error.verify_message = "Missing Authority Key Identifier"

    assert explain(error, Troubles()).endswith(
        "Missing Authority Key Identifier (verify_strict: false takes it)"
    )
