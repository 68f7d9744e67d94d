"""The two clients cannot be told apart: every test of one is a test of the other."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import errno
import gc
import gzip
import json
import logging
import math
import socket
import ssl
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import example, given, strategies as st
from server import (
    Server,
    answer,
    described_hello,
    dripping,
    never,
    reset,
    then_close,
    tunnel_to,
)

from airflow_anon.client.aiohttp_client import AsyncClient, adrive
from airflow_anon.client.endpoint import USER_AGENT, Endpoint
from airflow_anon.client.network import LONGEST_BODY, Troubles, explain
from airflow_anon.client.requests_client import Client, drive
from airflow_anon.core.flow import NoResponse, Request, Response
from airflow_anon.exceptions import AnonConfigurationError

PATH = "/api/v2/workflow-runs/3f0c7a52-9d1e-4b6b-8a70-1c2d3e4f5a60"
TOKEN = "token-that-nobody-may-see"
PROXY_PASSWORD = "proxy-password-that-nobody-may-see"
BOUND = 3.0
Replies = list[Response | NoResponse]
Ask = Callable[..., Replies]


def polls(times, between):
    replies = []
    for number in range(times):
        if number:
            between()
        replies.append((yield Request(PATH)))
    return replies


def with_requests(endpoint, times=1, between=lambda: None) -> Replies:
    client = Client(endpoint)
    try:
        return drive(client.send, polls(times, between), log_line=print, reload=lambda: False)
    finally:
        client.close()


def with_aiohttp(endpoint, times=1, between=lambda: None) -> Replies:
    async def ask():
        client = await AsyncClient.open(endpoint)
        try:
            return await adrive(client, polls(times, between), log_line=print)
        finally:
            await client.close()

    return asyncio.run(ask())


BOTH = {"requests": with_requests, "aiohttp": with_aiohttp}


@pytest.fixture(params=BOTH)
def ask(request, cheap_collections) -> Iterator[Ask]:
    """Carry out one request, or several over one client; nothing may be left open."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield BOTH[request.param]
        gc.collect()

    left_open = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
    if sys.version_info < (3, 11):
        # There asyncio complains of a TLS layer that failed, although the socket below it is closed.
        left_open = [message for message in left_open if "_SSLProtocolTransport" not in message]
    assert not left_open


def endpoint_of(host, *, password=TOKEN, login=None, schema=None, port=None, **extra) -> Endpoint:
    return Endpoint.from_connection(
        "anon_default",
        host=host,
        schema=schema,
        port=port,
        login=login,
        password=password,
        extra=json.dumps({"timeout": 5, **extra}),
    )


def reason_of(replies: Replies) -> str:
    (reply,) = replies
    assert isinstance(reply, NoResponse), reply
    assert TOKEN not in repr(reply)
    assert PROXY_PASSWORD not in repr(reply)
    return reply.reason


def told_within_bound(ask, endpoint) -> str:
    begun = time.monotonic()
    reason = reason_of(ask(endpoint))
    assert time.monotonic() - begun < BOUND
    return reason


@pytest.fixture
def names_lead_to(monkeypatch):
    """Let every host name, whatever its port, lead to a port on loopback."""
    real = socket.getaddrinfo

    def lead_to(port, *addresses):
        def getaddrinfo(host, *args, **kwargs):
            named = addresses or (("127.0.0.1", port),)
            found = [real(*address, type=socket.SOCK_STREAM)[0] for address in named]
            asked.append(host)
            return found

        asked = []
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return lead_to


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="module")
def ca_folder(authority, tmp_path_factory) -> str:
    # OpenSSL finds a certificate in a folder by the hash of its subject.
    folder = tmp_path_factory.mktemp("folder")
    path = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    (folder / f"{subject_hash(path)}.0").write_bytes(path.read_bytes())
    return str(folder)


def subject_hash(path: Path) -> str:
    import subprocess

    command = ["openssl", "x509", "-hash", "-noout", "-in", str(path)]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    except FileNotFoundError:
        pytest.skip("there is no openssl here")


def tls_for(authority: trustme.CA, *names: str, **options) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("127.0.0.1", "worker.anon.com")), **options).configure_cert(context)
    return context


# The request


@pytest.mark.parametrize(
    ("host", "schema", "base_path"),
    [
        ("worker.anon.com", None, ""),
        ("worker.anon.com/", None, ""),
        ("https://worker.anon.com", None, ""),
        ("https://worker.anon.com///", "https", ""),
        ("WORKER.anon.com:443", None, ""),
        ("https://worker.anon.com/tenants/blue/", None, "/tenants/blue"),
        ("worker.anon.com//tenants//blue//", None, "/tenants/blue"),
        ("worker.anon.com/api/v2/", None, ""),
        (None, None, ""),
    ],
)
def test_every_spelling_of_a_host_gives_the_same_request(
    ask, host, schema, base_path, authority, ca_file, names_lead_to
):
    with Server(tls=tls_for(authority)) as server:
        asked_for = names_lead_to(server.port)
        replies = ask(endpoint_of(host, schema=schema, verify=ca_file))

    assert replies[0].status == 200
    assert replies[0].target == f"https://worker.anon.com{base_path}{PATH}"
    assert set(asked_for) == {"worker.anon.com"}
    assert server.asked[0].line == f"GET {base_path}{PATH} HTTP/1.1"
    assert server.asked[0].headers == [
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("Authorization", f"Bearer {TOKEN}"),
        ("Cache-Control", "no-cache"),
        ("Host", "worker.anon.com"),
        ("User-Agent", USER_AGENT),
    ]


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("http://worker.anon.com:8080", "worker.anon.com:8080"),
        ("http://worker.anon.com:80", "worker.anon.com"),
        ("http://worker.anon.com.", "worker.anon.com"),
        ("http://worker.anon.com.:8080", "worker.anon.com:8080"),
        ("http://my_service:8080", "my_service:8080"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
    ],
)
def test_the_host_header_is_the_same(ask, host, sent, names_lead_to):
    with Server() as server:
        names_lead_to(server.port)
        host = host.replace("127.0.0.1:8080", server.authority)
        ask(endpoint_of(host))

    assert server.asked[0].header("Host") == sent.replace("127.0.0.1:8080", server.authority)


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) != errno.EADDRNOTAVAIL


@pytest.mark.skipif(not socket.has_ipv6 or not has_ipv6(), reason="there is no IPv6 here")
def test_an_ipv6_address_is_reached(ask):
    with Server(host="::1") as server:
        replies = ask(endpoint_of(server.url))

    assert replies[0].status == 200
    assert server.asked[0].header("Host") == f"[::1]:{server.port}"


BASE_PATHS = st.lists(
    st.sampled_from([*"ab/.._~!$&'()*+,;=:@-", "%2f", "%2F", "%41", "%7e", "%C3%a9", "%25"]), max_size=12
)


@pytest.fixture(scope="module")
def quiet_server() -> Iterator[Server]:
    with Server() as server:
        yield server


@given(base_path=BASE_PATHS.map(lambda parts: "/" + "".join(parts)))
@example(base_path="/a/../b/./c")
@example(base_path="/%2f%41")
@example(base_path="/%7Eme/~me")
def test_both_write_a_base_path_in_the_same_way(base_path, quiet_server):
    endpoint = endpoint_of(quiet_server.url + base_path)
    quiet_server.asked.clear()

    with_requests(endpoint)
    with_aiohttp(endpoint)

    from_requests, from_aiohttp = quiet_server.asked
    assert from_requests.line == from_aiohttp.line


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({}, {"Authorization": f"Bearer {TOKEN}"}),
        ({"password": None}, {}),
        ({"login": "me"}, {"Authorization": f"Basic {base64.b64encode(f'me:{TOKEN}'.encode()).decode()}"}),
        (
            {"login": "mé", "password": "ünïcode"},
            {"Authorization": f"Basic {base64.b64encode('mé:ünïcode'.encode()).decode()}"},
        ),
        ({"credential_header": "X-Api-Key"}, {"X-Api-Key": TOKEN}),
        ({"credential_header": "x-api-key", "credential_scheme": "Key"}, {"x-api-key": f"Key {TOKEN}"}),
        ({"credential_scheme": "Token"}, {"Authorization": f"Token {TOKEN}"}),
        ({"headers": {"X-Tenant": "blue", "x-empty": ""}}, {"X-Tenant": "blue", "x-empty": ""}),
        ({"headers": {"user-agent": "mine"}}, {"user-agent": "mine"}),
        ({"headers": {"ACCEPT": "text/json", "authorization": "mine"}}, {"ACCEPT": "text/json"}),
    ],
)
def test_a_credential_and_further_headers_are_sent_alike(fields, sent):
    asked = {}
    for name, ask in BOTH.items():
        with Server() as server:
            ask(endpoint_of(server.url, **fields))
        asked[name] = [pair for pair in server.asked[0].headers if pair[0] != "Host"]

    assert asked["requests"] == asked["aiohttp"]
    assert sent.items() <= dict(asked["requests"]).items()
    assert len({name.lower() for name, _ in asked["requests"]}) == len(asked["requests"])


def test_a_netrc_file_is_not_read(ask, tmp_path, monkeypatch):
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login stranger password stranger\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    with Server() as server:
        ask(endpoint_of(server.url))
        ask(endpoint_of(server.url, password=None))

    assert [asked.header("Authorization") for asked in server.asked] == [f"Bearer {TOKEN}", None]


def test_cookies_are_not_kept(ask):
    with Server(answer("200 OK", b"{}", "Set-Cookie: a=b; Path=/")) as server:
        ask(endpoint_of(server.url), times=2)

    assert [asked.header("Cookie") for asked in server.asked] == [None, None]


@pytest.mark.parametrize(
    "location", ["/elsewhere", "http://127.0.0.1:9/", "http://[", "ftp://\u00e9", "", "//", "http://a..b/"]
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(ask, status, location):
    with Server(answer(f"{status} Moved", b"body", f"Location: {location}")) as server:
        (reply,) = ask(endpoint_of(server.url))

    assert (reply.status, reply.body) == (status, b"body")
    assert len(server.asked) == 1


def test_the_body_of_a_redirect_is_not_trusted_either(ask):
    with Server(answer("302 Found", b"x", "Location: /", length=LONGEST_BODY + 1)) as server:
        reason = told_within_bound(ask, endpoint_of(server.url))

    assert reason == f"an answer of more than {LONGEST_BODY} bytes"


def test_what_came_back_is_handed_on_whole(ask):
    with Server(answer("503 Busy", b"x", "Retry-After: 7", "Date: a", "X-A: 1")) as server:
        begun = time.time()
        (reply,) = ask(endpoint_of(server.url))

    assert (reply.status, reply.body, reply.conn_id) == (503, b"x", "anon_default")
    assert (reply.headers.get("retry-after"), reply.headers.get("DATE")) == ("7", "a")
    assert begun <= reply.sent_at <= reply.at <= time.time()


@pytest.mark.parametrize(
    ("status", "connections"),
    [("204 No Content", 1), ("304 Not Modified", 2), ("404", 2), ("599 What", 2), ("200 OK", 1)],
)
def test_an_answer_without_a_body_is_an_answer(ask, status, connections):
    with Server(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()) as server:
        replies = ask(endpoint_of(server.url), times=2)

    assert [(reply.status, reply.body) for reply in replies] == [(int(status[:3]), b"")] * 2
    assert server.connections == connections


@pytest.mark.parametrize(
    "early", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"]
)
def test_what_comes_before_the_answer_is_ignored(ask, early):
    with Server(early * 2 + answer("404 Not Found")) as server:
        replies = ask(endpoint_of(server.url), times=2)

    assert [reply.status for reply in replies] == [404, 404]


def test_long_headers_are_read(ask):
    with Server(answer("200 OK", b"{}", "Content-Security-Policy: " + "x" * 30_000)) as server:
        (reply,) = ask(endpoint_of(server.url))

    assert reply.status == 200


def test_a_body_without_a_length_ends_with_the_connection(ask):
    with Server(then_close(b"HTTP/1.1 200 OK\r\n\r\n{}")) as server:
        replies = ask(endpoint_of(server.url), times=2)

    assert [reply.body for reply in replies] == [b"{}", b"{}"]
    assert server.connections == 2


def test_a_chunked_body_is_put_together(ask):
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\nTrailer: x\r\n\r\n"
    with Server(body) as server:
        replies = ask(endpoint_of(server.url), times=2)

    assert [reply.body for reply in replies] == [b"{}", b"{}"]
    assert server.connections == 1


# Bodies that are packed, though that was not asked for

BODY = b'{"id": "3f0c7a52", "status": "PENDING"}' * 20
RAW = zlib.compressobj(wbits=-15)
RAW_DEFLATE = RAW.compress(BODY) + RAW.flush()
PACKED = {
    "gzip": gzip.compress(BODY),
    "x-gzip": gzip.compress(BODY),
    " GZip": gzip.compress(BODY),
    "deflate": zlib.compress(BODY),
    "Deflate": RAW_DEFLATE,
    "identity": BODY,
    "": BODY,
}


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_packed_body_is_read(ask, coding, chunked):
    packed = PACKED[coding]
    if chunked:
        framing, packed = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)
    else:
        framing = f"Content-Length: {len(packed)}"
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n{framing}\r\n\r\n".encode()
    with Server(head + packed) as server:
        replies = ask(endpoint_of(server.url), times=2)

    assert [reply.body for reply in replies] == [BODY] * 2
    assert server.connections == 1


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", PACKED["gzip"][:-9]),
        ("gzip", PACKED["gzip"] + b"x"),
        ("gzip", BODY),
        ("gzip", b""),
        ("deflate", zlib.compress(BODY)[:-3]),
        ("deflate", RAW_DEFLATE[:-3]),
        ("deflate", BODY),
        ("br", b"\x0b\x02\x80{}\x03"),
    ],
    ids=["cut", "too much", "plain", "empty", "deflate, cut", "raw, cut", "deflate, plain", "another coding"],
)
def test_what_cannot_be_unpacked_is_handed_on_as_it_came(ask, coding, body):
    with Server(answer("200 OK", body, f"Content-Encoding: {coding}")) as server:
        (reply,) = ask(endpoint_of(server.url))

    assert reply.body == body


@pytest.mark.parametrize(
    ("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)], ids=["gzip", "deflate"]
)
def test_an_unpacked_body_has_the_same_greatest_length(ask, name, pack):
    coding = f"Content-Encoding: {name}"
    fits, bomb = pack(b" " * LONGEST_BODY), pack(b" " * 100 * LONGEST_BODY)
    with Server(answer("200 OK", fits, coding), answer("200 OK", bomb, coding)) as server:
        replies = ask(endpoint_of(server.url), times=2)

    assert len(replies[0].body) == LONGEST_BODY
    assert replies[1].reason == f"an answer of more than {LONGEST_BODY} bytes"


def test_an_error_that_is_packed_is_quoted(ask):
    with Server(answer("400 Bad", gzip.compress(b"no such tenant"), "Content-Encoding: gzip")) as server:
        (reply,) = ask(endpoint_of(server.url))

    assert "no such tenant" in reply.excerpt


# Bodies that are too long


def test_a_body_of_the_greatest_length_is_read(ask):
    with Server(answer("200 OK", b"x" * LONGEST_BODY)) as server:
        replies = ask(endpoint_of(server.url), times=2)

    assert [len(reply.body) for reply in replies] == [LONGEST_BODY] * 2
    assert server.connections == 1


def test_a_body_that_says_it_is_too_long_is_not_read(ask):
    with Server(answer("200 OK", b"", length=LONGEST_BODY + 1)) as server:
        reason = told_within_bound(ask, endpoint_of(server.url))

    assert reason == f"an answer of more than {LONGEST_BODY} bytes"


def test_a_body_that_turns_out_too_long_is_not_read_on(ask):
    taken = []
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

    def endless(connection):
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        taken.append(connection.sent_until_refused(chunk, 2_000))

    with Server(endless) as server:
        reason = told_within_bound(ask, endpoint_of(server.url))

    assert reason == f"an answer of more than {LONGEST_BODY} bytes"
    assert taken[0] < 500  # the rest was in buffers of the system


def test_after_a_body_that_was_too_long_the_next_request_is_answered(ask):
    with Server(answer("200 OK", b"x" * (LONGEST_BODY + 1)), answer()) as server:
        replies = ask(endpoint_of(server.url), times=2)

    assert isinstance(replies[0], NoResponse)
    assert replies[1].body == b"{}"
    assert server.connections == 2


# Time


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n"


def without_end(connection):
    connection.sent_until_refused(b"HTTP/1.1 102 Processing\r\n\r\n" * 100, 1_000_000)


@pytest.mark.parametrize(
    "act",
    [
        never,
        without_end,
        dripping(HEAD + b"\r\n", b"x" * 200),
        dripping(b"", HEAD + b"X-A: " + b"x" * 200),
        dripping(HEAD, b"X-A: 1\r\n" * 30),
        dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 40),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10),
    ],
    ids=["nothing", "much", "body", "headers", "header lines", "chunks", "not yet"],
)
def test_one_request_takes_no_longer_than_its_timeout(ask, act):
    with Server(act) as server:
        reason = told_within_bound(ask, endpoint_of(server.url, timeout=0.3))

    assert reason == "timed out"
    assert len(server.asked) == 1


def test_a_handshake_takes_no_longer_than_the_timeout(ask, ca_file):
    with Server(on_accept=never) as server:
        reason = told_within_bound(
            ask, endpoint_of(f"https://{server.authority}", timeout=0.3, verify=ca_file)
        )

    assert reason == "timed out"


@pytest.mark.parametrize("act", [never, dripping(b"HTTP/1.1 200 OK\r\nX-A: ", b"x" * 200)])
def test_a_proxy_takes_no_longer_than_the_timeout(ask, act):
    with Server(act) as proxy:
        endpoint = endpoint_of("worker.anon.com", proxy=proxy.url, timeout=0.3)
        reason = told_within_bound(ask, endpoint)

    assert reason == "timed out"


def test_the_time_of_one_request_is_not_taken_from_the_next(ask):
    with Server(never, answer(), answer()) as server:
        replies = ask(
            endpoint_of(server.url, timeout=0.3), times=3, between=lambda: threading.Event().wait(0.05)
        )

    assert [type(reply) for reply in replies] == [NoResponse, Response, Response]


@pytest.fixture
def silent_port():
    """A port that answers no attempt to connect to it, like a firewall that drops what it gets."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            waiting.append(sock)
        yield listener.getsockname()[1]
        for sock in waiting:
            sock.close()


def test_many_addresses_take_no_longer_than_the_timeout(ask, silent_port, names_lead_to):
    names_lead_to(silent_port, *[("127.0.0.1", silent_port)] * 12)

    reason = told_within_bound(ask, endpoint_of("http://worker.anon.com", timeout=0.3))

    assert reason == "timed out"


def test_an_address_that_is_silent_does_not_hide_one_that_answers(ask, silent_port, names_lead_to):
    with Server() as server:
        names_lead_to(0, ("127.0.0.1", silent_port), ("127.0.0.1", server.port))
        (reply,) = ask(endpoint_of("http://worker.anon.com", timeout=1))

    assert reply.status == 200


# Trouble


BROKEN = [
    (reset, "connection lost"),
    (then_close(), "connection lost"),
    (then_close(answer("200 OK", b"{", length=9)), "connection lost"),
    (then_close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"), "connection lost"),
    (then_close(b"HTTP/1.1 401 Unauthorized\r\nContent-Len"), "connection lost"),
    (then_close(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n"), "connection lost"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", "the answer is not HTTP"),
    (b"\x15\x03\x01\x00\x02\x02\x50\r\n\r\n", "the answer is not HTTP"),
    (b"220 mail.example ESMTP\r\n\r\n", "the answer is not HTTP"),
    (b"HTTP/1.1 abc OK\r\n\r\n", "the answer is not HTTP"),
    (b"HTTP/1.1 200 OK\r\nX: 1\r\nno header\r\nContent-Length: 0\r\n\r\n", "the answer is not HTTP"),
    (b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 70_000 + b"\r\n\r\n", "the answer is not HTTP"),
]


@pytest.mark.parametrize(("act", "reason"), BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("warm", [False, True], ids=["first", "later"])
def test_a_broken_answer_is_reported_in_the_same_words(act, reason, warm):
    told, asked = {}, {}
    for name, ask in BOTH.items():
        with Server(*[answer()] * warm, act) as server:
            replies = ask(endpoint_of(server.url, timeout=1), times=1 + warm)
            told[name] = reason_of(replies[-1:])
            asked[name] = len(server.asked)

    assert told == {"requests": reason, "aiohttp": reason}
    assert asked["requests"] == asked["aiohttp"]


def test_a_refused_connection_is_reported(ask):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        reason = told_within_bound(ask, endpoint_of(f"http://127.0.0.1:{bound.getsockname()[1]}"))

    assert reason == "connection refused"


def test_a_name_that_nobody_knows_is_reported(ask, monkeypatch):
    def getaddrinfo(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    assert reason_of(ask(endpoint_of("nowhere.invalid"))) == "host name not found"


def test_other_trouble_of_the_system_is_reported(ask, monkeypatch):
    def connect(self, address):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", connect)

    assert reason_of(ask(endpoint_of("http://127.0.0.1:9"))) == "Network is unreachable"


@pytest.mark.parametrize("host", ["worker..anon.com", f"{'a' * 64}.anon.com", "a." * 130 + "com"])
def test_a_host_that_no_name_server_could_know_is_refused(host):
    with pytest.raises(AnonConfigurationError, match="host"):
        endpoint_of(host)


# Keeping connections alive


def test_many_requests_share_one_connection(ask):
    with Server() as server:
        replies = ask(endpoint_of(server.url), times=20)

    assert {reply.status for reply in replies} == {200}
    assert server.connections == 1


@pytest.mark.parametrize("at_once", [False, True], ids=["idle", "just then"])
def test_a_connection_that_the_server_closed_meanwhile_is_replaced(ask, at_once):
    with Server() as server:

        def close():
            server.drop_connections()
            if not at_once:
                threading.Event().wait(0.05)

        replies = ask(endpoint_of(server.url), times=3, between=close)

    assert [reply.status for reply in replies] == [200] * 3
    assert server.connections == 3


def test_a_connection_lost_while_a_request_is_under_way_is_replaced_once(ask):
    with Server(answer(), then_close(), answer("201 Created"), then_close()) as server:
        replies = ask(endpoint_of(server.url), times=3)

    assert [type(reply) for reply in replies] == [Response, Response, NoResponse]
    assert [asked.connection for asked in server.asked] == [1, 1, 2, 2, 3]


def test_a_server_that_says_close_is_obeyed(ask):
    with Server(answer("200 OK", b"{}", "Connection: close")) as server:
        ask(endpoint_of(server.url), times=2)

    assert server.connections == 2


# TLS


def test_both_say_the_same_hello(authority, ca_file, names_lead_to):
    hellos = {}
    for name, ask in BOTH.items():
        with Server(tls=tls_for(authority)) as server:
            names_lead_to(server.port)
            ask(endpoint_of("worker.anon.com", verify=ca_file))
        (hellos[name],) = map(described_hello, server.hellos)

    assert hellos["requests"] == hellos["aiohttp"]
    assert b"http/1.1" in hellos["requests"]["extensions"][16]
    assert b"worker.anon.com" in hellos["requests"]["extensions"][0]


def test_a_ca_file_of_the_connection_is_used(ask, authority, ca_file):
    with Server(tls=tls_for(authority)) as server:
        replies = ask(endpoint_of(server.url, verify=ca_file), times=3)

    assert [reply.status for reply in replies] == [200] * 3
    assert server.connections == 1


def test_a_ca_folder_of_the_connection_is_used(ask, authority, ca_folder):
    with Server(tls=tls_for(authority)) as server:
        (reply,) = ask(endpoint_of(server.url, verify=ca_folder))

    assert reply.status == 200


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("kind", ["ca_file", "ca_folder"])
def test_the_ca_settings_of_the_environment_are_used(ask, authority, variable, kind, request, monkeypatch):
    monkeypatch.setenv(variable, request.getfixturevalue(kind))
    with Server(tls=tls_for(authority)) as server:
        (reply,) = ask(endpoint_of(server.url))

    assert reply.status == 200


def test_the_store_of_the_system_counts_as_well(ask, authority, ca_folder, monkeypatch):
    monkeypatch.setenv("SSL_CERT_DIR", ca_folder)  # where OpenSSL has it
    with Server(tls=tls_for(authority)) as server:
        (reply,) = ask(endpoint_of(server.url))

    assert reply.status == 200


def test_the_connection_goes_before_the_environment(ask, authority, ca_file, tmp_path, monkeypatch):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    with Server(tls=tls_for(authority)) as server:
        (reply,) = ask(endpoint_of(server.url, verify=ca_file))

    assert reply.status == 200


@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["missing", "empty", "garbage"])
@pytest.mark.parametrize("variable", [None, "REQUESTS_CA_BUNDLE"])
def test_a_ca_file_that_cannot_be_read_is_a_wrong_setting(ask, content, variable, tmp_path, monkeypatch):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    if variable:
        monkeypatch.setenv(variable, str(path))
    extra = {} if variable else {"verify": str(path)}

    with pytest.raises(AnonConfigurationError) as caught:
        ask(endpoint_of("https://127.0.0.1:9", **extra))

    assert caught.value.field == (variable or "verify")
    assert "anon_default" in str(caught.value)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_verification_can_be_switched_off(ask, authority):
    with Server(tls=tls_for(authority, "elsewhere.example")) as server:
        (reply,) = ask(endpoint_of(server.url, verify=False))

    assert reply.status == 200


YESTERDAY = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("names", "options", "trusted", "said"),
    [
        (["elsewhere.example"], {}, True, "certificate is not valid for '127.0.0.1'"),
        ([], {}, False, "unable to get local issuer certificate"),
        ([], {"not_before": YESTERDAY - dt.timedelta(days=1), "not_after": YESTERDAY}, True, "expired"),
    ],
    ids=["wrong name", "unknown authority", "expired"],
)
def test_a_certificate_that_is_not_accepted_is_reported_in_the_same_words(
    authority, ca_file, names, options, trusted, said
):
    told = {}
    extra = {"verify": ca_file} if trusted else {}
    for name, ask in BOTH.items():
        with Server(tls=tls_for(authority, *names, **options)) as server:
            told[name] = reason_of(ask(endpoint_of(server.url, **extra)))

    assert told["requests"] == told["aiohttp"]
    assert told["requests"].startswith("TLS certificate not accepted: ")
    assert said in told["requests"]
    assert not server.asked


@pytest.mark.parametrize("own_file", [True, False], ids=["key of its own", "one file"])
def test_a_client_certificate_is_shown(ask, authority, ca_file, own_file, tmp_path):
    mine = authority.issue_cert("me@example.com")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    if own_file:
        mine.cert_chain_pems[0].write_to_path(str(certificate))
        mine.private_key_pem.write_to_path(str(key))
        extra = {"client_cert": str(certificate), "client_key": str(key)}
    else:
        mine.private_key_and_cert_chain_pem.write_to_path(str(certificate))
        extra = {"client_cert": str(certificate)}
    tls = tls_for(authority)
    tls.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(tls)
    with Server(tls=tls) as server:
        (reply,) = ask(endpoint_of(server.url, verify=ca_file, **extra))

    assert reply.status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_misses_a_client_certificate_is_no_answer(ask, authority, ca_file, version):
    tls = tls_for(authority)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.maximum_version = version
    authority.configure_trust(tls)
    with Server(tls=tls) as server:
        reason = reason_of(ask(endpoint_of(server.url, verify=ca_file)))

    assert reason.startswith(("TLS failed: ", "connection lost"))
    assert not server.asked


def test_a_client_certificate_that_cannot_be_read_is_a_wrong_setting(ask, ca_file, tmp_path):
    missing = str(tmp_path / "missing.pem")

    for certificate in (missing, ca_file):
        with pytest.raises(AnonConfigurationError) as caught:
            ask(endpoint_of("https://127.0.0.1:9", client_cert=certificate))

        assert caught.value.field == "client_cert"


def test_tls_spoken_to_a_server_that_does_not_know_it_is_reported_alike():
    told = set()
    for ask in BOTH.values():
        with Server(on_accept=then_close(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
            told.add(reason_of(ask(endpoint_of(f"https://{server.authority}"))))

    assert told == {"the server does not speak TLS: write http:// in host if that is meant"}


def test_trouble_with_tls_is_shown_by_its_code():
    error = ssl.SSLError(1, "secret")
    error.reason = "NO_SHARED_CIPHER"

    assert explain(error, Troubles()) == "TLS failed: NO_SHARED_CIPHER"


def test_a_server_that_hangs_up_on_the_handshake_is_reported_alike():
    told = {}
    for name, ask in BOTH.items():
        with Server(on_accept=lambda connection: connection.sock.recv(65536) and None) as server:
            told[name] = reason_of(ask(endpoint_of(f"https://{server.authority}")))

    assert told == {"requests": "connection lost", "aiohttp": "connection lost"}


def test_files_are_read_off_the_event_loop(ca_file, monkeypatch):
    threads = []
    real = ssl.SSLContext.load_verify_locations

    def load_verify_locations(self, *args, **kwargs):
        threads.append(threading.current_thread())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", load_verify_locations)

    with_aiohttp(endpoint_of("https://127.0.0.1:9", verify=ca_file))
    with_aiohttp(endpoint_of("http://127.0.0.1:9", proxy="https://127.0.0.1:9", verify=ca_file))

    assert len(threads) == 2
    assert threading.main_thread() not in threads


# Proxies


def proxy_url(proxy: Server, credential: str = "") -> str:
    return proxy.url.replace("://", f"://{credential}")


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", None])
def test_a_plain_request_goes_through_the_proxy(ask, variable, monkeypatch):
    with Server() as proxy:
        url = proxy_url(proxy, f"me:{PROXY_PASSWORD}@")
        if variable:
            monkeypatch.setenv(variable, url)
        replies = ask(
            endpoint_of("http://worker.anon.com:8080/base", **({} if variable else {"proxy": url})), times=2
        )

    credential = base64.b64encode(f"me:{PROXY_PASSWORD}".encode()).decode()
    assert [reply.status for reply in replies] == [200, 200]
    assert proxy.connections == 1
    assert proxy.asked[0].line == f"GET http://worker.anon.com:8080/base{PATH} HTTP/1.1"
    assert proxy.asked[0].headers == [
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("Authorization", f"Bearer {TOKEN}"),
        ("Cache-Control", "no-cache"),
        ("Host", "worker.anon.com:8080"),
        ("Proxy-Authorization", f"Basic {credential}"),
        ("User-Agent", USER_AGENT),
    ]
    assert proxy.asked[0].raw == proxy.asked[1].raw


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", None])
def test_a_tls_request_goes_through_a_tunnel(ask, variable, authority, ca_file, monkeypatch):
    with Server(tls=tls_for(authority)) as server, Server(tunnel_to(server.port)) as proxy:
        url = proxy_url(proxy, f"me:{PROXY_PASSWORD}@")
        if variable:
            monkeypatch.setenv(variable, url)
        extra = {} if variable else {"proxy": url}
        replies = ask(endpoint_of("worker.anon.com", verify=ca_file, **extra), times=2)

    assert [reply.status for reply in replies] == [200, 200]
    assert proxy.connections == server.connections == 1
    (asked,) = proxy.asked
    assert asked.line.startswith("CONNECT worker.anon.com:443 HTTP/1.")
    assert TOKEN not in asked.raw.decode()
    assert server.asked[0].line == f"GET {PATH} HTTP/1.1"
    assert server.asked[0].header("Host") == "worker.anon.com"
    assert server.asked[0].header("Authorization") == f"Bearer {TOKEN}"
    assert server.asked[0].header("Proxy-Authorization") is None


def test_both_ask_for_a_tunnel_alike(authority, ca_file):
    asked = {}
    for name, ask in BOTH.items():
        with Server(tls=tls_for(authority)) as server, Server(tunnel_to(server.port)) as proxy:
            url = proxy_url(proxy, f"me:{PROXY_PASSWORD}@")
            ask(endpoint_of("worker.anon.com", verify=ca_file, proxy=url, headers={"X-Tenant": "blue"}))
        # http.client sends HTTP/1.0 and no Host before Python 3.12.
        asked[name] = [pair for pair in proxy.asked[0].headers if pair[0] != "Host"]

    credential = base64.b64encode(f"me:{PROXY_PASSWORD}".encode()).decode()
    assert asked["requests"] == asked["aiohttp"]
    assert dict(asked["requests"]) == {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Cache-Control": "no-cache",
        "Proxy-Authorization": f"Basic {credential}",
        "User-Agent": USER_AGENT,
    }


@pytest.mark.parametrize(
    ("credential", "sent"),
    [
        ("", None),
        ("me@", "me:"),
        (":token@", ":token"),
        ("me:@", "me:"),
        ("m%40e:a%3Ab%2F@", "m@e:a:b/"),
        ("m%C3%A9:x@", "m\u00e9:x"),
    ],
)
@pytest.mark.parametrize("through", ["http", "https"])
def test_the_credential_of_a_proxy_is_sent_alike(ask, credential, sent, through, authority, ca_file):
    tls = tls_for(authority) if through == "https" else None
    with Server(tls=tls) as server, Server(tunnel_to(server.port) if tls else answer()) as proxy:
        endpoint = endpoint_of(
            f"{through}://worker.anon.com", proxy=proxy_url(proxy, credential), verify=ca_file
        )
        (reply,) = ask(endpoint)

    expected = None if sent is None else f"Basic {base64.b64encode(sent.encode('latin1')).decode()}"
    assert reply.status == 200
    assert proxy.asked[0].header("Proxy-Authorization") == expected


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has no TLS within TLS before Python 3.11")
def test_a_proxy_may_speak_tls_itself(ask, authority, ca_file):
    with (
        Server(tls=tls_for(authority)) as server,
        Server(tunnel_to(server.port), tls=tls_for(authority)) as proxy,
    ):
        (reply,) = ask(endpoint_of("worker.anon.com", proxy=proxy.url, verify=ca_file))

    assert reply.status == 200
    assert len(server.asked) == len(proxy.asked) == 1


def test_a_proxy_may_speak_tls_for_a_plain_target(ask, authority, ca_file):
    with Server(tls=tls_for(authority)) as proxy:
        (reply,) = ask(endpoint_of("http://worker.anon.com", proxy=proxy.url, verify=ca_file))

    assert reply.status == 200
    assert proxy.asked[0].line == f"GET http://worker.anon.com{PATH} HTTP/1.1"


@pytest.mark.parametrize(
    ("variable", "exceptions"),
    [
        ("NO_PROXY", "127.0.0.1"),
        ("no_proxy", "example.com, 127.0.0.1"),
        ("NO_PROXY", "127.0.0.0/8"),
        ("NO_PROXY", "*"),
    ],
)
@pytest.mark.parametrize("proxied", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_exceptions_from_the_proxy_are_kept(ask, variable, exceptions, proxied, monkeypatch):
    with Server() as server, Server() as proxy:
        monkeypatch.setenv(proxied, proxy.url)
        monkeypatch.setenv(variable, exceptions)
        ask(endpoint_of(server.url))

    assert len(server.asked) == 1
    assert not proxy.asked


@pytest.mark.parametrize("exceptions", ["worker.anon.com", ".anon.com", "anon.com"])
def test_exceptions_by_name_are_kept(ask, exceptions, names_lead_to, monkeypatch):
    with Server() as server:
        names_lead_to(server.port)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", exceptions)
        (reply,) = ask(endpoint_of("http://worker.anon.com"))

    assert reply.status == 200


def test_the_proxy_of_the_connection_goes_before_the_environment(ask, monkeypatch):
    with Server() as server, Server() as proxy:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "*")
        ask(endpoint_of(server.url, proxy=proxy.url))

    assert len(proxy.asked) == 1
    assert not server.asked


def test_the_proxy_of_the_other_scheme_is_not_used(ask, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with Server() as server:
        (reply,) = ask(endpoint_of(server.url))

    assert reply.status == 200


def test_a_proxy_without_a_scheme_speaks_http(ask, monkeypatch):
    with Server() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.authority)
        ask(endpoint_of("http://worker.anon.com"))
        monkeypatch.delenv("HTTP_PROXY")
        ask(endpoint_of("http://worker.anon.com", proxy=proxy.authority))

    assert len(proxy.asked) == 2


@pytest.mark.parametrize("proxy", [f"socks5://me:{PROXY_PASSWORD}@127.0.0.1:9"])
def test_a_kind_of_proxy_that_is_not_supported_is_a_wrong_setting(ask, proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", proxy)

    with pytest.raises(AnonConfigurationError, match="proxy") as caught:
        ask(endpoint_of("worker.anon.com"))

    assert PROXY_PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "proxy",
    [
        f"http://me:12{PROXY_PASSWORD}/x@127.0.0.1:9",
        f"http://me:{PROXY_PASSWORD}@127.0.0.1:port",
        f"http://me:{PROXY_PASSWORD}@[127.0.0.1:9",
        f"http://me:{PROXY_PASSWORD}\u2100@127.0.0.1:9",
        f"http://me:{PROXY_PASSWORD}@127.0.0.1:99999",
        f"http://me:{PROXY_PASSWORD}%E2%82%AC@127.0.0.1:9",
    ],
)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", None])
def test_a_proxy_that_makes_no_sense_is_a_wrong_setting_and_not_shown(ask, proxy, variable, monkeypatch):
    if variable:
        monkeypatch.setenv(variable, proxy)

    with pytest.raises(AnonConfigurationError, match="proxy") as caught:
        ask(endpoint_of("http://worker.anon.com", **({} if variable else {"proxy": proxy})))

    assert PROXY_PASSWORD not in str(caught.value)
    assert caught.value.field == "proxy"


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "502 Bad Gateway", "403 Forbidden"])
def test_a_proxy_that_does_not_connect_is_reported(ask, status):
    with Server(answer(status, b"no")) as proxy:
        url = proxy_url(proxy, f"me:{PROXY_PASSWORD}@")
        reason = reason_of(ask(endpoint_of("worker.anon.com", proxy=url)))

    assert reason == "the proxy did not connect"


@pytest.mark.parametrize("host", ["worker.anon.com", "http://worker.anon.com"])
def test_a_proxy_that_is_not_there_is_reported(ask, host):
    reason = reason_of(ask(endpoint_of(host, proxy=f"http://me:{PROXY_PASSWORD}@127.0.0.1:9")))

    assert reason == "proxy not reached (connection refused)"


def test_a_proxy_without_an_address_is_reported(ask, monkeypatch):
    def getaddrinfo(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    reason = reason_of(ask(endpoint_of("worker.anon.com", proxy="http://proxy.invalid:3128")))

    assert reason == "proxy not reached (host name not found)"


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (then_close(), "connection lost"),
        (reset, "connection lost"),
        (b"garbage\r\n\r\n", "the answer is not HTTP"),
    ],
)
def test_a_proxy_that_breaks_is_reported_in_the_same_words(ask, act, reason):
    with Server(act) as proxy:
        assert reason_of(ask(endpoint_of("worker.anon.com", proxy=proxy.url, timeout=1))) == reason


# Nothing is left behind


def test_no_secret_is_logged(ask, authority, ca_file, caplog):
    caplog.set_level(logging.DEBUG)
    with Server(tls=tls_for(authority)) as server, Server(tunnel_to(server.port)) as proxy:
        url = proxy_url(proxy, f"me:{PROXY_PASSWORD}@")
        ask(endpoint_of("worker.anon.com", verify=ca_file, proxy=url, headers={"X-Secret": "hidden-value"}))
    with Server(reset) as proxy:
        ask(endpoint_of("http://worker.anon.com", proxy=proxy_url(proxy, f"me:{PROXY_PASSWORD}@")))

    for secret in (
        TOKEN,
        PROXY_PASSWORD,
        "hidden-value",
        base64.b64encode(f"me:{PROXY_PASSWORD}".encode()).decode(),
    ):
        assert secret not in caplog.text


def test_a_cancelled_request_leaves_nothing_open():
    async def cancelled(server):
        client = await AsyncClient.open(endpoint_of(server.url))
        task = asyncio.create_task(client.send(Request(PATH)))
        while not server.asked:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close()

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with Server(never) as server:
            asyncio.run(cancelled(server))
        gc.collect()


def reloaded(client, endpoint):
    """Let a worker's client read a connection again, as if the last time was long ago."""
    client.reloaded_at = -math.inf
    return client.reload(lambda: endpoint)


def test_a_connection_is_read_again_twice_a_minute_at_most():
    with Server() as server:
        client = Client(endpoint_of(server.url))
        renewed = [client.reload(lambda: endpoint_of(server.url, password=text)) for text in ("a", "b")]  # noqa: B023
        client.close()

    assert renewed == [True, False]


def test_a_renewed_client_speaks_to_the_new_endpoint():
    with Server() as server:
        client = Client(endpoint_of(server.url))
        outcomes = [
            reloaded(client, endpoint_of(server.url)),
            reloaded(client, endpoint_of(server.url, password="other")),
        ]
        client.send(Request(PATH))
        client.close()

    assert outcomes == [False, True]
    assert server.asked[0].header("Authorization") == "Bearer other"


@pytest.mark.parametrize(
    "setting",
    [
        {"verify": "/nowhere/ca.pem", "host": "https://127.0.0.1:9"},
        {"client_cert": "/nowhere/cert.pem", "host": "https://127.0.0.1:9"},
    ],
    ids=["verify", "client_cert"],
)
def test_a_renewal_that_fails_leaves_the_client_as_it_was_and_is_tried_again(setting):
    with Server() as server, Server() as proxy:
        client = Client(endpoint_of("http://worker.anon.com", proxy=proxy.url))
        for _ in range(2):
            with pytest.raises(AnonConfigurationError):
                reloaded(client, endpoint_of(**setting, password="other", proxy="http://127.0.0.1:9"))
            client.send(Request(PATH))
        renewed = reloaded(client, endpoint_of(server.url, password="other"))
        client.send(Request(PATH))
        client.close()

    assert [asked.header("Authorization") for asked in proxy.asked] == [f"Bearer {TOKEN}"] * 2
    assert renewed
    assert [asked.header("Authorization") for asked in server.asked] == ["Bearer other"]


def test_a_proxy_of_the_environment_that_makes_no_sense_fails_a_renewal_whole(monkeypatch):
    with Server() as server:
        client = Client(endpoint_of(server.url))
        monkeypatch.setenv("HTTPS_PROXY", f"socks5://me:{PROXY_PASSWORD}@127.0.0.1:9")
        for _ in range(2):
            with pytest.raises(AnonConfigurationError, match="proxy"):
                reloaded(client, endpoint_of("worker.anon.com", password="other"))
        client.send(Request(PATH))
        client.close()

    assert server.asked[0].header("Authorization") == f"Bearer {TOKEN}"


def test_a_client_that_is_closed_has_closed_its_connection(ask):
    """A failed request leaves a cycle behind, which must not hold the next connection open."""
    ended = threading.Event()

    def answer_and_watch(connection):
        connection.send(answer())
        if not connection.sock.recv(1):
            ended.set()

    gc.disable()
    try:
        with Server(reset, answer_and_watch) as server:
            ask(endpoint_of(server.url), times=2)

            assert ended.wait(BOUND)
    finally:
        gc.enable()


def test_an_endpoint_shows_no_secret():
    endpoint = endpoint_of(
        "worker.anon.com", proxy=f"http://me:{PROXY_PASSWORD}@p.example", headers={"X": "hidden-value"}
    )

    for secret in (TOKEN, PROXY_PASSWORD, "hidden-value"):
        assert secret not in repr(endpoint)


def test_a_trouble_of_no_known_kind_is_named_by_its_class():
    assert explain(KeyError("secret"), Troubles()) == "KeyError"
    assert explain(OSError("secret"), Troubles()) == "OSError"
