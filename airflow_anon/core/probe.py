"""Whether a connection is any good: what the *Test* button asks."""

from __future__ import annotations

from http import HTTPStatus

from airflow_anon.core.answers import Answer, AnswerKind, interpret
from airflow_anon.core.flow import Flow, Request, Response
from airflow_anon.core.ids import path_of

NIL_ID = "00000000-0000-0000-0000-000000000000"


def probe() -> Flow[tuple[bool, str]]:
    """Ask for the nil id, which is no run: a 404 shows that host and token are good."""
    reply = yield Request(path_of(NIL_ID))
    answer = interpret(reply, NIL_ID)
    place = answer.reply.target.removesuffix(path_of(NIL_ID))
    if not isinstance(reply, Response):
        return False, f"No answer from {place}: {answer.trouble}."
    is_page = "html" in reply.headers.get("Content-Type", "").lower()
    if answer.kind in (AnswerKind.NOT_FOUND, AnswerKind.RUN) and not is_page:
        return True, f"The API at {place} answers, and takes this connection."
    trouble = answer.trouble.rstrip(",") + " and a web page" * is_page
    return False, f"{place} answers {trouble}. {_advice(answer)}"


def _advice(answer: Answer) -> str:
    """Say what to do about an answer that is not the API's, or not a good one."""
    status = answer.status_code or 0
    if answer.kind is AnswerKind.UNAUTHORIZED:
        return "The token ('password') is missing or not accepted; for Basic, check 'login' too."
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return "The proxy wants a login and password: http://login:password@proxy.example:3128 in 'proxy'."
    if answer.kind is AnswerKind.TRANSIENT and status != HTTPStatus.OK:
        return "That may pass: try again later."
    if 300 <= status < 400:
        return "The API never redirects, and no redirect is followed: check 'host' and 'schema'."
    return "That is not the API: check 'host'."
