"""Answers that are not as they should be, byte for byte: each means the same to both clients."""

from __future__ import annotations

import json

import pytest
from networks.conftest import endpoint_of
from samples import RUN_ID, payload
from server import Server, then_close

from airflow_anon.core.flow import Request, Response
from airflow_anon.core.ids import path_of

BODY = json.dumps(payload("COMPLETED")).encode()
SIZE = len(BODY)
LENGTH = f"Content-Length: {SIZE}"
CHUNKED = "Transfer-Encoding: chunked"
CHUNK = b"%x\r\n%b\r\n" % (SIZE, BODY)
LAST = b"0\r\n\r\n"


def raw(*headers: str, status: str = "HTTP/1.1 200 OK", body: bytes = BODY) -> bytes:
    return "\r\n".join([status, *headers, "", ""]).encode() + body


def numbered(count: int) -> list[str]:
    return [f"X-{number}: 1" for number in range(count)]


READ = {
    "many headers": raw(LENGTH, *numbered(98)),
    "HTTP/2.0": raw(LENGTH, status="HTTP/2.0 200 OK"),
    "HTTP/1.0": then_close(raw(LENGTH, status="HTTP/1.0 200 OK")),
    "HTTP/1.0, kept alive": raw(LENGTH, "Connection: keep-alive", status="HTTP/1.0 200 OK"),
    "HTTP/1.0, chunked": then_close(raw(CHUNKED, status="HTTP/1.0 200 OK", body=CHUNK + LAST)),
    "HTTP/0.9": then_close(raw(LENGTH, status="HTTP/0.9 200 OK")),
    "no reason": raw(LENGTH, status="HTTP/1.1 200"),
    "an odd reason": raw(LENGTH, status="HTTP/1.1 200 \u00dcn\u00ef"),
    "a blank line before": b"\r\n" + raw(LENGTH),
    "a name of every sign": raw(LENGTH, "X_a.b!#$%&'*+^`|~: 1"),
    "a value with other letters": raw(LENGTH, "X-A: \u00fc"),
    "a value with a control": raw(LENGTH, "X-A: a\x01b"),
    "a folded header": raw(LENGTH, "X-A: 1", "  2"),
    "lines without CR": raw(LENGTH).replace(b"\r\n", b"\n"),
    "blanks around the length": raw(f"Content-Length:   {SIZE}  "),
    "a length with zeros": raw(f"Content-Length: 000{SIZE}"),
    "50 early hints": raw("Link: <x>", status="HTTP/1.1 103 Early Hints", body=b"") * 50 + raw(LENGTH),
    "5000 times not yet": raw(status="HTTP/1.1 100 Continue", body=b"") * 5000 + raw(LENGTH),
    "an offer to upgrade": raw(LENGTH, "Connection: upgrade", "Upgrade: h2c"),
    "chunked, said twice": raw(CHUNKED, CHUNKED, body=CHUNK + LAST),
    "chunked, in capitals": raw(CHUNKED.upper(), body=CHUNK + LAST),
    "a chunk with an extension": raw(CHUNKED, body=CHUNK.replace(b"\r\n", b" ;a=b\r\n", 1) + LAST),
    "neither length nor chunks": then_close(raw()),
    "another transfer coding": then_close(raw("Transfer-Encoding: identity")),
}
NOT_HTTP = {
    "too many headers": raw(LENGTH, *numbered(110)),
    "very many headers": raw(LENGTH, *numbered(20_000)),
    "two equal lengths": raw(LENGTH, LENGTH),
    "two equal lengths in one line": raw(f"{LENGTH}, {SIZE}"),
    "two lengths": raw(LENGTH, "Content-Length: 5"),
    "a length, and chunked": raw(LENGTH, CHUNKED, body=CHUNK + LAST),
    "chunked, and a length": raw(CHUNKED, LENGTH, body=CHUNK + LAST),
    "a length, and another coding": raw(LENGTH, "Transfer-Encoding: identity"),
    "two codings": raw("Transfer-Encoding: gzip, chunked", body=CHUNK + LAST),
    "more after it closed": then_close(raw(LENGTH, "Connection: close") + b"more"),
    "another answer after it closed": raw(LENGTH, "Connection: close") + raw(LENGTH),
    "more after chunks and a close": then_close(raw(CHUNKED, "Connection: close", body=CHUNK + LAST + b"x")),
    "more after HTTP/1.0": then_close(raw(LENGTH, status="HTTP/1.0 200 OK") + b"more"),
    "more after it": raw(LENGTH) + b"more",
    "a length that is too small": raw("Content-Length: 5"),
    "a body where there is none": raw(LENGTH, status="HTTP/1.1 204 No Content"),
    "a negative length": raw("Content-Length: -5"),
    "a length with a sign": raw(f"Content-Length: +{SIZE}"),
    "a length in words": raw("Content-Length: many"),
    "no length where it should be": then_close(raw("Content-Length: ")),
    "a hexadecimal length": raw(f"Content-Length: {SIZE:#x}"),
    "a length with a line": raw("Content-Length: 1_0"),
    "a length beyond all": raw(f"Content-Length: {10**22}"),
    "a name with a blank": raw(LENGTH, "X Odd: 1"),
    "a name with brackets": raw(LENGTH, "X(Odd): 1"),
    "a name with other letters": raw(LENGTH, "X-\u00dc: 1"),
    "a blank before the colon": raw(LENGTH, "X-A : 1"),
    "no name": raw(LENGTH, ": 1"),
    "no colon": raw(LENGTH, "X-A"),
    "a NUL": raw(LENGTH, "X-A: a\0b"),
    "a CR": raw(LENGTH, "X-A: a\rb"),
    "a header folded into nothing": raw("  folded", LENGTH),
    "HTTP/2": raw(LENGTH, status="HTTP/2 200 OK"),
    "HTTP/1.2": raw(LENGTH, status="HTTP/1.2 200 OK"),
    "http": raw(LENGTH, status="http/1.1 200 OK"),
    "two blanks": raw(LENGTH, status="HTTP/1.1  200 OK"),
    "a tab": raw(LENGTH, status="HTTP/1.1\t200 OK"),
    "status 0": raw(LENGTH, status="HTTP/1.1 000 Zero"),
    "status 99": raw(LENGTH, status="HTTP/1.1 99 Low"),
    "status 1000": raw(LENGTH, status="HTTP/1.1 1000 High"),
    "another protocol": raw("Upgrade: x", "Connection: upgrade", status="HTTP/1.1 101 Switching", body=b""),
    "a chunk without a size": raw(CHUNKED, body=b"zz\r\n" + BODY),
    "a chunk of less than nothing": raw(CHUNKED, body=b"-5\r\n"),
    "a chunk without an end": raw(CHUNKED, body=CHUNK[:-2] + b"XX" + LAST),
    "chunks without CR": raw(CHUNKED, body=(CHUNK + LAST).replace(b"\r\n", b"\n")),
    "a trailer without a colon": raw(CHUNKED, body=CHUNK + b"0\r\nno colon\r\n\r\n"),
    "very many trailers": raw(CHUNKED, body=CHUNK + b"0\r\n" + b"X: 1\r\n" * 300 + b"\r\n"),
}
LOST = {
    "chunks without a last": then_close(raw(CHUNKED, body=CHUNK)),
    "chunks cut in the last": then_close(raw(CHUNKED, body=CHUNK + b"0\r\n")),
    "a size that is cut": then_close(raw(CHUNKED, body=CHUNK + b"5")),
    "a status line that is cut": then_close(b"HTTP/1.1 20"),
}
VERDICTS = {
    **dict.fromkeys(READ, "read"),
    **dict.fromkeys(NOT_HTTP, "the answer is not HTTP"),
    **dict.fromkeys(LOST, "connection lost"),
}


def asked():
    return (yield Request(path_of(RUN_ID), RUN_ID))


@pytest.mark.parametrize("name", VERDICTS)
def test_an_odd_answer_means_the_same_to_both(carry_out, name):
    act = {**READ, **NOT_HTTP, **LOST}[name]
    with Server(act, raw(LENGTH)) as server:
        first, second = carry_out(endpoint_of(server.url), asked(), asked())

    if isinstance(first, Response):
        assert (first.status, first.body) == (200, BODY)
    assert getattr(first, "reason", "read") == VERDICTS[name]
    assert (second.status, second.body) == (200, BODY)
    assert len(server.asked) == 2
