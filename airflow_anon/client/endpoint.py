"""A connection's fields, checked and brought into one form: the ``Endpoint``. No I/O, no Airflow."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from string import Formatter
from typing import Any, NoReturn, TypeVar
from urllib.parse import SplitResult, quote, quote_plus, unquote, unquote_plus, urlsplit, urlunsplit

from airflow_anon import __version__
from airflow_anon.core.errors import AnonConfigurationError
from airflow_anon.core.sanitize import UNFIT_TEXT
from airflow_anon.runs import API_PATH

T = TypeVar("T")
D = TypeVar("D")

DEFAULT_HOST = "worker.anon.com"
DEFAULT_TIMEOUT = 30.0
DEFAULT_MAX_CONNECTIONS = 100
USER_AGENT = f"airflow-provider-anon/{__version__}"
LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}$){LABEL}(\.{LABEL})*\.?|\[[0-9A-Fa-f:.]+\]")
URL_TEXT = re.compile(r"[^\s\x00-\x1f\x7f\\<>\"\ud800-\udfff]+")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})
OUR_HEADERS = {
    "User-Agent": USER_AGENT,
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    # A shared cache on the way may keep an answer: a token in a header of its own does not tell it that it must not.
    "Cache-Control": "no-cache",
}
LARGEST_NUMBER = 1e6
LONGEST_EXCERPT = 120
READ_FOR_EXCERPT = 16 * 1024
LONGEST_ESCAPE = 8  # of one letter
JSON_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|[nrt]|(.))")
SHORTEST_SECRET = 5  # as for Airflow: what is shorter is no secret, and would tear other words apart
EXTRAS = (
    "timeout",
    "verify",
    "verify_strict",
    "client_cert",
    "client_key",
    "proxy",
    "credential_header",
    "credential_scheme",
    "headers",
    "max_connections",
    "max_requests_per_second",
    "run_url_template",
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    Where the API is and how it is spoken to; both clients are built from it.

    Whatever may hold a secret stays out of its ``repr``. ``timeout`` is in seconds and for one
    request in all. ``cautions`` are sentences that deserve a warning in the log, ``secrets`` all
    that must not be shown, the longest first.
    """

    conn_id: str
    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout: float = DEFAULT_TIMEOUT
    verify: bool | str = True
    verify_strict: bool = True
    client_cert: str | None = None
    client_key: str | None = None
    proxy: str | None = field(default=None, repr=False)
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    max_requests_per_second: float | None = None
    run_url_template: str | None = None
    cautions: tuple[str, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def from_connection(
        cls,
        conn_id: str,
        *,
        host: str | None = None,
        schema: str | None = None,
        port: int | None = None,
        login: str | None = None,
        password: str | None = None,
        extra: str | None = None,
    ) -> Endpoint:
        """
        Check the fields of an Airflow connection; ``extra`` is its JSON text.

        :raises AnonConfigurationError: a field makes no sense; the message names connection and
            field and never shows a secret.
        """
        fields = _Fields(conn_id, extra)
        base_url = _base_url(fields, host, schema, port)
        credential = _credential(fields, login, password)
        further = fields.take("headers", _headers, {})
        headers = _merged(OUR_HEADERS, further, credential)
        proxy = fields.take("proxy", proxy_url, None)
        client_cert, client_key = _client_certificate(fields)
        values = [*further.values(), *credential.values()]
        without_scheme = [value.partition(" ")[2] for value in values]
        return cls(
            conn_id=conn_id,
            base_url=base_url,
            headers=headers,
            timeout=fields.take("timeout", _positive, DEFAULT_TIMEOUT),
            verify=fields.take("verify", _verify, default=True),
            verify_strict=fields.take("verify_strict", _switch, default=True),
            client_cert=client_cert,
            client_key=client_key,
            proxy=proxy,
            max_connections=fields.take("max_connections", _count, DEFAULT_MAX_CONNECTIONS),
            max_requests_per_second=fields.take("max_requests_per_second", _positive, None),
            run_url_template=fields.take("run_url_template", _run_url_template, None),
            cautions=tuple(_cautions(fields, base_url, headers, credential)),
            secrets=_secrets(login, password, *values, *without_scheme, *_of_proxy(proxy)),
        )

    def url(self, path: str) -> str:
        """Return the address of *path* (it begins with a slash) at this endpoint."""
        return self.base_url + path

    def excerpt(self, body: bytes) -> str:
        """
        Return the beginning of an error's body for a message: in one line, and without our secrets.

        Nothing of it is shown if it spells one of them as JSON, HTML or a URL would.
        """
        text = _in_one_line(body[:READ_FOR_EXCERPT].decode(errors="replace"))
        for secret in self.secrets:
            text = text.replace(secret, "***")
        reach = LONGEST_ESCAPE * len(self.secrets[0] if self.secrets else "")
        if any(
            secret in plain
            for plain in _unescaped(text[: LONGEST_EXCERPT + reach])
            for secret in self.secrets
        ):
            return "***"
        if len(body) > READ_FOR_EXCERPT and reach:
            text = text[:-reach]  # where a secret may have been cut in two
        return text if len(text) <= LONGEST_EXCERPT else f"{text[:LONGEST_EXCERPT]}..."


class _Fields:
    """The ``extra`` of a connection; each value is taken by name and checked on the way out."""

    def __init__(self, conn_id: str, extra: str | None) -> None:
        self.conn_id = conn_id
        self.values: dict[str, Any] = {}
        try:
            values = json.loads(extra) if extra and extra.strip() else {}
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            self.refuse("extra", "must be a JSON object")
        prefix = "extra__anon__"
        for name in sorted(values, key=lambda name: not name.startswith(prefix)):
            if values[name] is not None and values[name] != "":
                self.values[name.removeprefix(prefix)] = values[name]

    def take(self, name: str, check: Callable[[Any], T], default: D) -> T | D:
        value = self.values.get(name)
        if value is None:
            return default
        if value == "***":
            self.refuse(name, "is a mask (***) in place of the value: enter the value again")
        try:
            return check(value)
        except ValueError as error:
            self.refuse(name, str(error))

    def refuse(self, field: str, why: str) -> NoReturn:
        raise AnonConfigurationError(
            f"Connection {self.conn_id!r}: {field} {why}.",
            conn_id=self.conn_id,
            field=field,
        ) from None


def _base_url(fields: _Fields, host: str | None, schema: str | None, port: int | None) -> str:
    parts = _split_host(fields, (host or "").strip() or DEFAULT_HOST)
    asked = (schema or "").strip().lower().removesuffix("://")
    if asked not in {"", "http", "https"}:
        fields.refuse("schema", "must be https or http")
    if parts.scheme and asked and parts.scheme != asked:
        fields.refuse("schema", f"is {asked}, but host begins with {parts.scheme}://")
    scheme = parts.scheme or asked or "https"
    netloc = parts.hostname or ""
    if ":" in netloc:
        netloc = f"[{netloc}]"
    if not HOST_NAME.fullmatch(netloc) or not parts.netloc.isascii():  # lower case can turn others into ASCII
        fields.refuse("host", "must be a host name or address, such as worker.anon.com")
    number = _port(fields, parts, port)
    if number and number != {"https": 443, "http": 80}[scheme]:
        netloc = f"{netloc}:{number}"
    path = re.sub("/{2,}", "/", parts.path).rstrip("/").removesuffix(API_PATH)
    if not re.fullmatch(r"([A-Za-z0-9/._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*", path):
        fields.refuse("host", "has a path with characters that a URL does not allow")
    return urlunsplit((scheme, netloc, path, "", ""))


def _split_host(fields: _Fields, host: str) -> SplitResult:
    try:
        parts = _split(host if "://" in host else f"//{host}")
        if "[" in parts.netloc:
            IPv6Address(parts.hostname or "")  # Python 3.10 takes any text in brackets
    except ValueError:
        fields.refuse("host", "must be a host name or address, such as worker.anon.com")
    if parts.scheme not in {"", "http", "https"}:
        fields.refuse("host", "must begin with https:// or http://")
    if parts.username is not None or parts.password is not None:
        fields.refuse("host", "holds a credential: it belongs into login and password")
    if parts.query or parts.fragment:
        fields.refuse("host", "has a query or a fragment: only host, port and base path belong there")
    if parts.hostname in {"http", "https"}:
        fields.refuse("host", "looks like a URL whose colon is missing")
    return parts


def _split(url: str) -> SplitResult:
    """Split a URL; line breaks and tabs, which ``urlsplit`` drops in silence, are refused."""
    if not url.isprintable():
        raise ValueError
    return urlsplit(url)


def _port(fields: _Fields, parts: SplitResult, port: int | None) -> int | None:
    try:
        in_host = parts.port
    except ValueError:
        fields.refuse("host", "has a port that is not a number from 1 to 65535")
    port = port or None  # forms of Airflow 3 have written 0 for a blank field
    if in_host and port and in_host != port:
        fields.refuse("port", f"is {port}, but host says {in_host}")
    number = port if in_host is None else in_host
    if number is not None and not 0 < number < 65536:
        fields.refuse("port", "must be a number from 1 to 65535")
    return number


def _credential(fields: _Fields, login: str | None, password: str | None) -> dict[str, str]:
    login, secret = (login or "").strip(), (password or "").strip()
    header = fields.take("credential_header", _header_name, "Authorization")
    # A header of one's own mostly wants the bare token; Authorization always has a scheme.
    default_scheme = "Bearer" if header.lower() == "authorization" else ""
    scheme = fields.take("credential_scheme", _header_value, default_scheme)
    if UNFIT_TEXT.search(login + secret):
        fields.refuse("password", "or login has characters that are not text")
    if not secret:
        return {}
    if re.fullmatch(r"\*{3,}", secret):
        fields.refuse("password", "is a mask (***) in place of the token: enter the token again")
    if login:
        return {header: f"Basic {b64encode(f'{login}:{secret}'.encode()).decode()}"}
    if not re.fullmatch(r"[\x21-\x7e]+", secret):
        fields.refuse("password", "has blanks or characters that an HTTP header cannot carry")
    return {header: f"{scheme} {secret}".strip()}


def _client_certificate(fields: _Fields) -> tuple[str | None, str | None]:
    cert, key = fields.take("client_cert", _text, None), fields.take("client_key", _text, None)
    if key and not cert:
        fields.refuse("client_key", "is of no use without the certificate it belongs to, client_cert")
    return cert, key


def _of_proxy(proxy: str | None) -> tuple[str, ...]:
    parts = urlsplit(proxy or "")
    if "@" not in parts.netloc:
        return ()
    login, password = unquote(parts.username or ""), unquote(parts.password or "")
    return login, password, b64encode(f"{login}:{password}".encode("latin1")).decode()


def _secrets(*values: str | None) -> tuple[str, ...]:
    """Return what must not be shown, as it is and as an answer may spell it, the longest first."""
    words = {value.strip() for value in values if value}
    spellings = {_in_one_line(spelling) for word in words for spelling in _spellings(word)}
    return tuple(sorted((text for text in spellings if len(text) >= SHORTEST_SECRET), key=len, reverse=True))


def _spellings(word: str) -> tuple[str, ...]:
    return (
        word,
        quote(word, safe=""),
        quote_plus(word),
        html.escape(word),
        json.dumps(word)[1:-1],
        # taken for what it is not, by the server or by us
        word.encode().decode("latin1"),
        word.encode("latin1", errors="replace").decode(errors="replace"),
    )


def _unescaped(text: str) -> list[str]:
    """Return what a text stands for, if it is JSON, HTML, a URL or a form."""
    return [_in_one_line(undo(text)) for undo in (_of_json, html.unescape, unquote, unquote_plus)]


def _of_json(text: str) -> str:
    plain = JSON_ESCAPE.sub(_letter_of, text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # joins surrogates


def _letter_of(escape: re.Match[str]) -> str:
    code, letter = escape.groups()
    return chr(int(code, 16)) if code else letter or " "


def _in_one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _cautions(
    fields: _Fields, base_url: str, headers: Mapping[str, str], credential: Mapping[str, str]
) -> list[str]:
    cautions = []
    parts = urlsplit(base_url)
    has_credential = bool(credential) or "authorization" in map(str.lower, headers)
    if has_credential and parts.scheme == "http" and not LOOPBACK.fullmatch(parts.hostname or ""):
        cautions.append(
            f"Connection {fields.conn_id!r} sends its credential to {parts.netloc} over plain http, "
            "where anyone on the way can read it: use https."
        )
    for name in sorted(fields.values.keys() - set(EXTRAS)):
        import difflib

        close = difflib.get_close_matches(name, EXTRAS, n=1)
        hint = f" Was {close[0]!r} meant?" if close else ""
        cautions.append(f"Connection {fields.conn_id!r}: extra has an unknown field {name!r}, ignored.{hint}")
    return cautions


def _positive(value: object) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) else 0.0
    except (ValueError, OverflowError):
        number = 0.0
    if isinstance(value, bool) or not 0 < number <= LARGEST_NUMBER:
        raise ValueError(f"must be a number greater than 0 (and at most {LARGEST_NUMBER:.0f})")
    return number


def _count(value: object) -> int:
    number = _positive(value)
    if number != int(number):
        raise ValueError("must be a whole number greater than 0")
    return int(number)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or UNFIT_TEXT.search(value):
        raise ValueError("must be text")
    return value.strip()


def _switch(value: object) -> bool:
    switch = _verify(value)
    if not isinstance(switch, bool):
        raise ValueError("must be true or false")  # noqa: TRY004  as all that is wrong with a field
    return switch


def _verify(value: object) -> bool | str:
    if isinstance(value, bool):
        return value
    text = _text(value)
    return {"true": True, "false": False}.get(text.lower(), text)


def _header_name(value: object) -> str:
    name = _text(value)
    if not HEADER_NAME.fullmatch(name):
        raise ValueError("must be the name of an HTTP header")
    if name.lower() in OWN_HEADERS:
        raise ValueError(f"sets {name}, which is not the user's to set")
    return name


def _header_value(value: object) -> str:
    if not isinstance(value, str) or not HEADER_VALUE.fullmatch(value):
        raise ValueError("must be the value of an HTTP header")
    if value == "***":
        raise ValueError("holds a mask (***) in place of a value: enter the value again")
    return value.strip()


def _headers(value: object) -> dict[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise ValueError('must be a JSON object of names and values, such as {"X-Tenant": "blue"}')  # noqa: TRY004
    return {_header_name(name): _header_value(text) for name, text in value.items()}


def _merged(*layers: Mapping[str, str]) -> dict[str, str]:
    """Put headers over one another; HTTP does not tell upper from lower case in their names."""
    merged = {name.lower(): (name, value) for layer in layers for name, value in layer.items()}
    return dict(merged.values())


def proxy_url(value: object) -> str:
    """
    Check the address of a proxy.

    :raises ValueError: it is none; the text does not show it.
    """
    text = _text(value)
    try:
        parts = _split(text if "://" in text else f"http://{text}")
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        unquote(parts.netloc).encode("latin1")  # Basic credentials of a proxy have no other characters
    except ValueError:
        usable = False  # the error's own text would show a part of the URL, which may be the password
    if not usable:
        raise ValueError("must be the URL of an HTTP proxy, such as http://proxy.example:3128")
    return urlunsplit(parts)


def _run_url_template(value: object) -> str:
    text = _text(value)
    try:
        placeholders = {tuple(rest) for _, *rest in Formatter().parse(text)}
    except ValueError:
        placeholders = {("unreadable",)}
    if not placeholders <= {("id", "", None), ("workflow_id", "", None), (None, None, None)}:
        raise ValueError("has placeholders other than {id} and {workflow_id}")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and URL_TEXT.fullmatch(text)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be an http(s) address, such as https://app.example/runs/{id}")
    if "@" in parts.netloc:
        raise ValueError("holds a credential, which everyone who sees the link would see")
    return text
