"""A connection's fields become an endpoint, or a refusal that says which field and shows no secret."""

from __future__ import annotations

import html
import json
import pickle
import re
import time
import traceback
from base64 import b64decode
from urllib.parse import quote, quote_plus

import pytest

from airflow_anon import __version__
from airflow_anon.client.endpoint import EXTRAS, READ_FOR_EXCERPT, Endpoint
from airflow_anon.exceptions import AnonConfigurationError

SECRET = "s3cr3t-t0k3n"
MASKED = "***"


def endpoint(extra: object = None, **fields) -> Endpoint:
    text = extra if extra is None or isinstance(extra, str) else json.dumps(extra)
    return Endpoint.from_connection("blue", extra=text, **fields)


def refusal(extra: object = None, **fields) -> AnonConfigurationError:
    with pytest.raises(AnonConfigurationError) as refused:
        endpoint(extra, **fields)
    return refused.value


# Where the API is.


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"host": None},
        {"host": ""},
        {"host": "  "},
        {"host": "worker.anon.com"},
        {"host": " worker.anon.com "},
        {"host": "\tworker.anon.com\r\n"},
        {"host": "worker.anon.com/"},
        {"host": "worker.anon.com///"},
        {"host": "worker.anon.com:443"},
        {"host": "https://worker.anon.com"},
        {"host": "https://worker.anon.com/"},
        {"host": "https://worker.anon.com///"},
        {"host": "https://worker.anon.com:443/"},
        {"host": "HTTPS://Worker.ANON.com"},
        {"host": "WORKER.ANON.COM"},
        {"host": "worker.anon.com/api/v2"},
        {"host": "https://worker.anon.com/api/v2/"},
        {"host": "https://worker.anon.com//api//v2//"},
        {"host": "worker.anon.com", "schema": "https"},
        {"host": "worker.anon.com", "schema": "HTTPS"},
        {"host": "worker.anon.com", "schema": "https://"},
        {"host": "worker.anon.com", "schema": " "},
        {"host": "worker.anon.com", "port": 443},
        {"host": "https://worker.anon.com", "schema": "https", "port": 443},
        {"host": "worker.anon.com:443", "port": 443},
        {"schema": "https"},
        {"port": 443},
        {"port": 0},
        {"host": "worker.anon.com:443", "port": 0},
    ],
    ids=repr,
)
def test_every_spelling_of_the_host_is_the_same_address(fields):
    url = endpoint(**fields).url("/api/v2/workflow-runs/some-id")

    assert url == "https://worker.anon.com/api/v2/workflow-runs/some-id"


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({"host": "eu.anon.example"}, "https://eu.anon.example"),
        ({"host": "http://eu.anon.example"}, "http://eu.anon.example"),
        ({"host": "eu.anon.example", "schema": "http"}, "http://eu.anon.example"),
        ({"host": "http://eu.anon.example:80"}, "http://eu.anon.example"),
        ({"host": "http://eu.anon.example:443"}, "http://eu.anon.example:443"),
        ({"host": "eu.anon.example:8443"}, "https://eu.anon.example:8443"),
        ({"host": "eu.anon.example", "port": 8443}, "https://eu.anon.example:8443"),
        ({"host": "eu.anon.example/anon/"}, "https://eu.anon.example/anon"),
        ({"host": "eu.anon.example//a//b//"}, "https://eu.anon.example/a/b"),
        ({"host": "eu.anon.example/anon/api/v2/"}, "https://eu.anon.example/anon"),
        ({"host": "eu.anon.example/anon", "port": 8443}, "https://eu.anon.example:8443/anon"),
        ({"host": "eu.anon.example/Anon%20EU"}, "https://eu.anon.example/Anon%20EU"),
        ({"host": "localhost"}, "https://localhost"),
        ({"host": "anon_worker"}, "https://anon_worker"),
        ({"host": "worker.anon.com."}, "https://worker.anon.com."),
        ({"host": "10.0.0.7:8080", "schema": "http"}, "http://10.0.0.7:8080"),
        ({"host": "[2001:db8::7]"}, "https://[2001:db8::7]"),
        ({"host": "http://[::1]:8080/anon"}, "http://[::1]:8080/anon"),
    ],
    ids=repr,
)
def test_any_other_host_is_honoured(fields, base_url):
    assert endpoint(**fields).base_url == base_url


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"host": "https//worker.anon.com"}, "host"),
        ({"host": "https:/worker.anon.com"}, "host"),
        ({"host": "https:worker.anon.com"}, "host"),
        ({"host": "https://https://worker.anon.com"}, "host"),
        ({"host": "http"}, "host"),
        ({"host": "https://"}, "host"),
        ({"host": "//worker.anon.com"}, "host"),
        ({"host": "/worker.anon.com"}, "host"),
        ({"host": "/\t/worker.anon.com"}, "host"),
        ({"host": "://worker.anon.com"}, "host"),
        ({"host": ":443"}, "host"),
        ({"host": "worker anon com"}, "host"),
        ({"host": "worker\n.anon.com"}, "host"),
        ({"host": "worker.anon.com\r\n.anon.example"}, "host"),
        ({"host": "worker.\tanon.com"}, "host"),
        ({"host": "https://worker.anon.com/a\nb"}, "host"),
        ({"host": "https:\n//worker.anon.com"}, "host"),
        ({"host": "\x01https://worker.anon.com"}, "host"),
        ({"host": "worker.anon.com/\x7f"}, "host"),
        ({"host": "wor\u212aer.anon.com"}, "host"),
        ({"host": "worker\u200b.anon.com"}, "host"),
        ({"host": "wörker.anon.com"}, "host"),
        ({"host": "worker.anon.com-"}, "host"),
        ({"host": "ftp://worker.anon.com"}, "host"),
        ({"host": "anon://worker.anon.com"}, "host"),
        ({"host": "worker.anon.com?a=b"}, "host"),
        ({"host": "worker.anon.com#top"}, "host"),
        ({"host": "worker.anon.com/a b"}, "host"),
        ({"host": "worker.anon.com/ä"}, "host"),
        ({"host": "user@worker.anon.com"}, "host"),
        ({"host": "https://user:word@worker.anon.com"}, "host"),
        ({"host": "worker.anon.com:https"}, "host"),
        ({"host": "worker.anon.com:65536"}, "host"),
        ({"host": "worker.anon.com:0"}, "port"),
        ({"host": "[::1"}, "host"),
        ({"host": "[worker]"}, "host"),
        ({"host": "[1:2]"}, "host"),
        ({"host": "worker.anon.com℀"}, "host"),
        ({"port": -1}, "port"),
        ({"port": 65536}, "port"),
        ({"host": "worker.anon.com:8443", "port": 443}, "port"),
        ({"schema": "ftp"}, "schema"),
        ({"schema": "api/v2"}, "schema"),
        ({"host": "https://worker.anon.com", "schema": "http"}, "schema"),
        ({"host": "http://worker.anon.com", "schema": "https"}, "schema"),
    ],
    ids=ascii,
)
def test_an_address_that_makes_no_sense_is_refused_by_connection_and_field(fields, field):
    error = refusal(**fields)

    assert (error.conn_id, error.field) == ("blue", field)
    assert str(error).startswith(f"Connection 'blue': {field} ")


# The credential.


def test_a_password_alone_is_a_bearer_token():
    assert endpoint(password=SECRET).headers["Authorization"] == f"Bearer {SECRET}"


def test_login_and_password_are_basic():
    scheme, text = endpoint(login="jörg", password="pass wört").headers["Authorization"].split()

    assert (scheme, b64decode(text).decode()) == ("Basic", "jörg:pass wört")


@pytest.mark.parametrize("fields", [{}, {"password": ""}, {"password": "  "}, {"login": "jo"}], ids=repr)
def test_without_a_password_no_credential_is_sent(fields):
    assert endpoint(**fields).headers.keys() == {"User-Agent", "Accept", "Accept-Encoding", "Cache-Control"}


@pytest.mark.parametrize("password", [f" {SECRET}", f"{SECRET}\n", f"\t{SECRET} "], ids=repr)
def test_blanks_around_a_token_are_trimmed(password):
    assert endpoint(password=password).headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    ("extra", "name", "value"),
    [
        ({"credential_header": "X-Api-Key"}, "X-Api-Key", SECRET),
        ({"credential_header": "X-Api-Key", "credential_scheme": "Token"}, "X-Api-Key", f"Token {SECRET}"),
        ({"credential_scheme": "Token"}, "Authorization", f"Token {SECRET}"),
        ({"credential_scheme": " Token "}, "Authorization", f"Token {SECRET}"),
        ({"credential_scheme": ""}, "Authorization", f"Bearer {SECRET}"),
        ({"credential_header": "authorization"}, "authorization", f"Bearer {SECRET}"),
        ({"credential_header": " X-Api-Key "}, "X-Api-Key", SECRET),
    ],
    ids=str,
)
def test_header_and_scheme_of_the_token_can_be_chosen(extra, name, value):
    assert endpoint(extra, password=SECRET).headers[name] == value


@pytest.mark.parametrize(
    "fields",
    [
        {"password": f"{SECRET} {SECRET}"},
        {"password": f"{SECRET}\r\nX-Evil: 1"},
        {"password": f"{SECRET}ä"},
        {"password": f"{SECRET}\x7f"},
        {"password": f"{SECRET}\ud800", "login": "jo"},
        {"password": SECRET, "login": "jo\ud800"},
        {"login": "jo\ud800"},
        {"password": "***"},
        {"password": "********"},
        {"password": " *** "},
        {"password": "***", "login": "jo"},
    ],
    ids=ascii,
)
def test_a_password_that_cannot_be_one_is_refused_without_showing_it(fields):
    error = refusal(**fields)

    assert error.field == "password"
    assert SECRET not in str(error)


# The further fields.


def test_an_empty_connection_has_the_documented_defaults():
    plain = endpoint()

    assert plain == Endpoint(
        conn_id="blue",
        base_url="https://worker.anon.com",
        headers={
            "User-Agent": f"airflow-provider-anon/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Cache-Control": "no-cache",
        },
        timeout=30.0,
        verify=True,
        client_cert=None,
        client_key=None,
        proxy=None,
        max_connections=100,
        max_requests_per_second=None,
        run_url_template=None,
        cautions=(),
    )


GOOD = [
    ("timeout", 5, 5.0),
    ("timeout", "2.5", 2.5),
    ("timeout", " 7 ", 7.0),
    ("verify", True, True),
    ("verify", False, False),
    ("verify", "true", True),
    ("verify", "False", False),
    ("verify", "/etc/ca.pem", "/etc/ca.pem"),
    ("verify_strict", "false", False),
    ("verify_strict", True, True),
    ("client_cert", " /etc/me.pem ", "/etc/me.pem"),
    ("proxy", "http://proxy.example:3128", "http://proxy.example:3128"),
    ("proxy", "proxy.example:3128", "http://proxy.example:3128"),
    ("proxy", "https://jo:word@proxy.example", "https://jo:word@proxy.example"),
    ("max_connections", 7, 7),
    ("max_connections", "7", 7),
    ("max_connections", 7.0, 7),
    ("max_requests_per_second", 0.5, 0.5),
    ("max_requests_per_second", "20", 20.0),
    ("run_url_template", "https://app.example/runs/{id}", "https://app.example/runs/{id}"),
    (
        "run_url_template",
        "http://a.example/{workflow_id}/{id}?x={{y}}",
        "http://a.example/{workflow_id}/{id}?x={{y}}",
    ),
    ("run_url_template", "https://app.example/", "https://app.example/"),
    ("run_url_template", " HTTPS://{id}.app.example:8443/#/@me/ ", "HTTPS://{id}.app.example:8443/#/@me/"),
]


@pytest.mark.parametrize(("name", "value", "read"), GOOD, ids=repr)
@pytest.mark.parametrize("prefix", ["", "extra__anon__"])
def test_a_field_of_extra_is_read_by_its_plain_and_by_its_old_name(name, value, read, prefix):
    given = endpoint({prefix + name: value})

    assert getattr(given, name) == read
    assert type(getattr(given, name)) is type(read)
    assert given.cautions == ()


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.parametrize("nothing", [None, ""], ids=repr)
def test_a_field_left_empty_has_its_default(name, nothing):
    assert endpoint({name: nothing}) == endpoint()


def test_a_client_certificate_may_have_its_key_beside_it():
    given = endpoint({"client_cert": "/etc/me.pem", "client_key": " /etc/me.key "})

    assert (given.client_cert, given.client_key, given.cautions) == ("/etc/me.pem", "/etc/me.key", ())


@pytest.mark.parametrize("cert", [{}, {"client_cert": ""}, {"client_cert": None}], ids=repr)
def test_a_client_key_without_its_certificate_is_refused(cert):
    error = refusal({"client_key": "/etc/me.key", **cert})

    assert (error.conn_id, error.field) == ("blue", "client_key")
    assert "client_cert" in str(error)


@pytest.mark.parametrize("extra", [None, "", "  ", "{}", "\n{ }"], ids=repr)
def test_extra_may_be_empty(extra):
    assert endpoint(extra) == endpoint()


@pytest.mark.parametrize(
    "extra",
    [{"timeout": 5, "extra__anon__timeout": 9}, {"extra__anon__timeout": 9, "timeout": 5}],
    ids=["plain first", "plain last"],
)
def test_a_plain_name_wins_over_its_old_name(extra):
    assert endpoint(extra).timeout == 5.0


def test_an_old_name_counts_where_the_plain_one_is_left_empty():
    assert endpoint({"timeout": "", "extra__anon__timeout": 9}).timeout == 9.0


@pytest.mark.parametrize(
    "headers",
    [{"X-Tenant": " blue ", "X-Empty": ""}, '{"X-Tenant": "blue", "X-Empty": ""}'],
    ids=["object", "text"],
)
def test_further_headers_may_be_an_object_or_its_text(headers):
    given = endpoint({"headers": headers}).headers

    assert (given["X-Tenant"], given["X-Empty"]) == ("blue", "")
    assert given["Accept"] == "application/json"


def test_a_header_is_sent_once_however_its_name_is_written():
    headers = {"user-agent": "me", "AUTHORIZATION": "old", "authorization": "older"}

    given = endpoint({"headers": headers}, password=SECRET).headers

    assert given == {
        "user-agent": "me",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Cache-Control": "no-cache",
        "Authorization": f"Bearer {SECRET}",
    }


BAD = [
    *[
        ("timeout", value)
        for value in (0, -1, "0", "nan", "inf", "soon", True, [], {}, 10**400, 1e7, "1e400")
    ],
    *[("max_connections", value) for value in (0, -1, 1.5, "1.5", "many", False, [])],
    *[("verify_strict", value) for value in (0, "maybe")],
    *[("max_requests_per_second", value) for value in (0, -0.5, "fast", True)],
    *[("verify", value) for value in (0, 1, "  ", [], "a\0b")],
    *[("client_cert", value) for value in (0, "  ", True, "a\0b", ["a", "b"])],
    *[("client_key", value) for value in (1.5, " ", {})],
    *[
        ("proxy", value)
        for value in (
            "socks5://proxy.example",
            "http://",
            "http://:3128",
            "http://proxy.example:port",
            "http://proxy.example:99999",
            "http://proxy.example:0",
            "http://jo:☃@proxy.example",
            "http://proxy\n.example",
            "http://jo:wo\trd@proxy.example",
            "http://[::1",
            7,
        )
    ],
    *[
        ("headers", value)
        for value in (
            "X-Tenant: blue",
            "[]",
            [],
            7,
            "[" * 100_000,
            {"": "a"},
            {"X Tenant": "a"},
            {"X-Tenant:": "a"},
            {"X-Tenant": 7},
            {"X-Tenant": None},
            {"X-Tenant": "a\r\nb"},
            {"X-Tenant": "ä"},
            {"X-Tenant": "***"},
            {"Host": "elsewhere"},
            {"content-length": "0"},
            {"Accept-Encoding": "gzip"},
            '{"Transfer-Encoding": "chunked"}',
        )
    ],
    *[
        ("credential_header", value)
        for value in ("X Api Key", "X-Api-Key:", "ä", 7, " ", "Host", "connection")
    ],
    *[("credential_scheme", value) for value in ("Be\r\narer", "ä", 7, [])],
    *[
        ("run_url_template", value)
        for value in (
            "https://app.example/{run_id}",
            "https://app.example/{}",
            "https://app.example/{0}",
            "https://app.example/{id",
            "https://app.example/{id.x}",
            "https://app.example/{id[x]}",
            "https://app.example/{id[0]}",
            "https://app.example/{id!r}",
            "https://app.example/{id:>99999999999}",
            "https://app.example/{id:{workflow_id}}",
            "app.example/{id}",
            "https:///{id}",
            "https://:8443/{id}",
            "https://[app/{id}",
            "https://app.example/a b/{id}",
            "https://app.example\t/{id}",
            "https://app.example/\n{id}",
            "https://app.example\\{id}",
            'https://app.example/"><script>/{id}',
            "java\nscript:alert(1)//{id}",
            "data:text/html,{id}",
            "//app.example/{id}",
            "https://jo:word@app.example/{id}",
            "https://token@app.example/{id}",
            "https://{id}@app.example/",
            "javascript:alert(1)",
            "ftp://app.example/{id}",
            7,
        )
    ],
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda value: ascii(value)[:40])
def test_a_field_of_extra_that_makes_no_sense_is_refused_by_connection_and_field(name, value):
    error = refusal({name: value})

    assert (error.conn_id, error.field) == ("blue", name)
    assert str(error).startswith(f"Connection 'blue': {name} ")


@pytest.mark.parametrize(
    "extra",
    ["no json", "[]", '"text"', "7", "null", '{"timeout": 5', "[" * 100_000, MASKED],
    ids=lambda text: text[:20],
)
def test_an_extra_that_is_no_json_object_is_refused(extra):
    error = refusal(extra)

    assert (error.conn_id, error.field) == ("blue", "extra")


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.parametrize("prefix", ["", "extra__anon__"])
def test_a_mask_in_place_of_a_value_is_refused(name, prefix):
    error = refusal({prefix + name: MASKED})

    assert error.field == name
    assert "mask" in str(error)


# Secrets.


@pytest.mark.parametrize(
    "fields",
    [
        {"host": f"user:{SECRET}@worker.anon.com"},
        {"host": f"https://{SECRET}@worker.anon.com"},
        {"host": f"worker.anon.com:{SECRET}"},
        {"host": f"worker.anon.com?token={SECRET}"},
        {"host": f"worker.anon.com#{SECRET}"},
        {"host": f"user:{SECRET}℀@worker.anon.com"},
        {"host": f"{SECRET} a"},
        {"host": f"worker.anon.com/{SECRET} a"},
        {"schema": SECRET},
        {"password": f"{SECRET} a"},
        {"password": f"{SECRET}\ud800", "login": "jo"},
        {"password": SECRET, "extra": SECRET},
        {"password": SECRET, "login": f"{SECRET}\ud800"},
        *[{"extra": json.dumps({name: {"d e": [SECRET]}})} for name in EXTRAS],
        *[{"extra": json.dumps({name: f"ä{SECRET}\0 {{}}"})} for name in EXTRAS],
        {"extra": f'{{"headers": {{"X-Api-Key": "{SECRET}"}}'},
        {"extra": json.dumps({"headers": {"X-Api-Key": f"{SECRET}\n"}})},
        {"extra": json.dumps({"headers": f"X-Api-Key: {SECRET}"})},
        {"extra": json.dumps({"proxy": f"socks5://jo:{SECRET}@proxy.example"})},
        {"extra": json.dumps({"proxy": f"http://jo:{SECRET}#1@proxy.example"})},
        {"extra": json.dumps({"proxy": f"http://jo:{SECRET}/1@proxy.example"})},
        {"extra": json.dumps({"proxy": f"http://jo:{SECRET}℀@proxy.example"})},
        {"extra": json.dumps({"run_url_template": f"https://app.example/{{{SECRET}}}"})},
    ],
    ids=ascii,
)
def test_a_refusal_never_shows_a_secret(fields):
    error = refusal(**fields)

    shown = "".join(traceback.format_exception(error))
    assert SECRET not in shown + repr(error) + repr(vars(error))


def test_the_repr_of_an_endpoint_holds_no_secret():
    extra = {"headers": {"X-Api-Key": SECRET}, "proxy": f"http://jo:{SECRET}@proxy.example"}

    for fields in ({"password": SECRET}, {"login": "jo", "password": SECRET}):
        given = endpoint(extra, **fields)

        assert SECRET not in repr(given)
        assert given.headers["Authorization"].split()[1] not in repr(given)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", ""),
        (b'{"message":\n "no  such run"}', '{"message": "no such run"}'),
        (b"a\x1b[31m\x00b\xff \xe2\x80\xaec", "a [31m b\ufffd c"),
        (b"x" * 300, "x" * 120 + "..."),
        (f"you sent {SECRET}".encode(), "you sent ***"),
        (b"you sent am86czNjcjN0LXQwazNu", "you sent ***"),
        (b'jonas said %22hid%2Fden%22 and "hid/den"', "jonas said *** and ***"),
        (b'as JSON: \\"hid/den\\"', "as JSON: ***"),
        (b"proxy-password, cHJveHk6cHJveHktcGFzc3dvcmQ=", "***, ***"),
        (SECRET.encode() * 1000, "***" * 40 + "..."),
    ],
    ids=ascii,
)
def test_of_an_errors_body_the_beginning_is_shown_without_our_secrets(body, shown):
    extra = {
        "headers": {"X-Api-Key": '"hid/den"', "X-A": " "},
        "proxy": "http://proxy:proxy-password@p.example",
    }
    given = endpoint(extra, login="jo", password=SECRET)

    assert given.excerpt(body) == shown


def as_go_does(text):
    """Write JSON as Go does, which escapes what HTML would take for its own."""
    return json.dumps(text).translate({ord(letter): rf"\u{ord(letter):04x}" for letter in "<>&"})[1:-1]


def in_numbers(text, form="&#{};"):
    """Escape all that is neither letter nor digit, as the careful do."""
    return re.sub("[^A-Za-z0-9]", lambda found: form.format(ord(found[0])), text)


SPELLINGS = {
    "as it is": lambda text: text,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON as it is": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON of Go": as_go_does,
    "JSON of PHP": lambda text: json.dumps(text)[1:-1].replace("/", r"\/"),
    "JSON in capitals": lambda text: re.sub(
        r"\\u\w{4}", lambda found: found[0].upper().replace("U", "u"), as_go_does(text)
    ),
    "HTML": html.escape,
    "HTML of others": lambda text: html.escape(text).replace("&#x27;", "&#39;").replace("/", "&#x2F;"),
    "HTML in numbers": in_numbers,
    "HTML in hexadecimal": lambda text: in_numbers(text, "&#x{:x};"),
    "a path": quote,
    "a form": quote_plus,
    "a URL": lambda text: quote(text, safe=""),
    "a URL in small letters": lambda text: re.sub(
        "%..", lambda found: found[0].lower(), quote(text, safe="")
    ),
    "latin-1": lambda text: text.encode("latin1", "replace").decode(errors="replace"),
    "UTF-8 taken for latin-1": lambda text: text.encode().decode("latin1"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    "secret",
    [
        "pass  word&<1>",
        "abc&<defgh",
        "a-b_c.d~e/f+g=",
        "tab\tand \n  more",
        "'quoted' \"twice\"",
        r"back\slash\\es\u0041",
        "jörg-größe-日本",
        "astral\U0001f600face",
        "joined\u200dup\u00adhere",
        "100%25of&amp;it",
    ],
    ids=ascii,
)
def test_a_secret_is_not_shown_as_it_is_nor_as_an_answer_would_spell_it(secret, spelling):
    given = endpoint(login="someone", password=secret)
    spelt = SPELLINGS[spelling](secret)

    assert given.excerpt(f"<p>Wrong password: [{spelt}], it says.".encode()) in {
        "<p>Wrong password: [***], it says.",
        "***",
    }
    assert given.excerpt(b"<p>Wrong &quot;password&quot;") == "<p>Wrong &quot;password&quot;"


def test_a_long_answer_full_of_almost_secrets_is_read_at_once():
    hostile = '\\"%25%25&amp;&amp; + é' * 20
    given = endpoint(login="someone", password=f"{hostile}!")
    started_at = time.monotonic()

    for body in (hostile * 200, "\\" * 20_000, "%25" * 9999, "&amp;" * 9999, " +" * 9999, "é" * 20_000):
        given.excerpt(body.encode())

    assert time.monotonic() - started_at < 5


def test_a_secret_that_is_cut_in_two_is_not_shown():
    given = endpoint(password=SECRET)

    for before in range(READ_FOR_EXCERPT - len(SECRET), READ_FOR_EXCERPT):
        body = b"\0" * before + SECRET.encode() + b"x" * 9
        assert "s3c" not in given.excerpt(body)
    assert endpoint().excerpt(b"y" * READ_FOR_EXCERPT * 2) == "y" * 120 + "..."


def test_an_escaped_secret_that_is_cut_in_two_is_not_shown():
    secret = "<&>'" * 5 + "s3cret"
    given = endpoint(login="someone", password=secret)
    spelt = html.escape(secret)

    for before in range(READ_FOR_EXCERPT - len(spelt), READ_FOR_EXCERPT):
        assert "&lt;" not in given.excerpt(b"\0" * before + spelt.encode() + b"x" * 9)


def test_endpoints_of_equal_connections_are_equal_and_survive_pickle():
    given = endpoint({"timeout": 5, "a": 1, "b": 2}, password=SECRET)

    assert given == endpoint({"b": 2, "a": 1, "timeout": "5"}, password=SECRET)
    assert given != endpoint({"timeout": 5, "a": 1, "b": 2}, password="another")
    assert pickle.loads(pickle.dumps(given)) == given


# Cautions.


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("time_out", " Was 'timeout' meant?"),
        ("Timeout", " Was 'timeout' meant?"),
        ("max_request_per_second", " Was 'max_requests_per_second' meant?"),
        ("extra__anon__proxi", " Was 'proxy' meant?"),
        ("qwertz", ""),
    ],
)
def test_an_unknown_field_of_extra_is_named_with_what_may_have_been_meant(name, hint):
    cautions = endpoint({name: SECRET}).cautions

    shown = name.removeprefix("extra__anon__")
    assert cautions == (f"Connection 'blue': extra has an unknown field {shown!r}, ignored.{hint}",)


def test_several_unknown_fields_are_named_in_order():
    cautions = endpoint({"zz": 1, "aa": 1, "mm": 1}).cautions

    assert [caution.split("'")[3] for caution in cautions] == ["aa", "mm", "zz"]


@pytest.mark.parametrize(
    "host",
    [
        "worker.anon.com",
        "10.0.0.7",
        "localhost.example",
        "127.example",
        "worker.anon.com:8080",
        "[2001:db8::1]",
    ],
)
@pytest.mark.parametrize("login", [None, "jo"])
def test_a_credential_over_plain_http_is_cautioned_against(host, login):
    cautions = endpoint(host=f"http://{host}", login=login, password=SECRET).cautions

    assert len(cautions) == 1
    assert "plain http" in cautions[0]
    assert host in cautions[0]
    assert SECRET not in cautions[0]


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
def test_a_credential_among_the_headers_is_cautioned_against_alike(name):
    headers = {"headers": {name: f"Bearer {SECRET}"}}

    assert (
        endpoint(headers, host="http://worker.anon.com").cautions
        == endpoint(host="http://worker.anon.com", password=SECRET).cautions
    )
    assert endpoint(headers, host="https://worker.anon.com").cautions == ()
    assert endpoint(headers, host="http://localhost").cautions == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "http://worker.anon.com"},
        {"host": "http://worker.anon.com", "extra": {"headers": {"X-Tenant": "blue"}}},
        {"host": "https://worker.anon.com", "password": SECRET},
        *[
            {"host": f"http://{host}", "password": SECRET}
            for host in ("localhost", "LOCALHOST:8080", "127.0.0.1", "127.1.2.3:8080", "[::1]", "[::1]:8080")
        ],
    ],
    ids=repr,
)
def test_nothing_is_cautioned_against_without_a_credential_in_the_open(fields):
    assert endpoint(**fields).cautions == ()
