"""Connections that are out of step with what is asked: one stray answer neither ends a wait nor spoils the next."""

from __future__ import annotations

import asyncio

import pytest
from networks.conftest import endpoint_of
from samples import RUN_ID, payload
from server import Server, answer

from airflow_anon.client.shared_client import SharedClient
from airflow_anon.core.flow import Request
from airflow_anon.core.ids import path_of
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import Outcome, poll
from airflow_anon.core.state import WaitState
from airflow_anon.exceptions import AnonNotFoundError, AnonRejectedError

OTHER_ID = "99999999-8888-4777-a666-555555555555"
RUN = answer(body=payload("IN_PROGRESS"))
DONE = answer(body=payload("COMPLETED"))
ANOTHER = answer(body=payload("COMPLETED", id=OTHER_ID))


def polls(times):
    """The polls of one wait, whose state they share."""
    policy, state = WaitPolicy(), WaitState(RUN_ID)
    return [poll(policy, state) for _ in range(times)]


def connections(server):
    return [request.connection for request in server.asked]


@pytest.mark.parametrize("status", ["404 Not Found", "400 Bad Request", "302 Found", "410 Gone"])
def test_a_stray_rejection_of_a_run_that_was_seen_ends_nothing(carry_out, status):
    with Server(RUN, answer(status), DONE) as server:
        first, second = carry_out(endpoint_of(server.url), *polls(2))

    assert (first.outcome, second.outcome) == (Outcome.WAITING, Outcome.OVER)
    assert second.run.succeeded
    assert sorted(connections(server)) == [1, 1, 2]


@pytest.mark.parametrize(
    ("status", "error"), [("404 Not Found", AnonNotFoundError), ("410 Gone", AnonRejectedError)]
)
def test_a_rejection_that_a_new_connection_confirms_holds(carry_out, status, error):
    with Server(RUN, answer(status)) as server, pytest.raises(error):
        carry_out(endpoint_of(server.url), *polls(2))

    assert sorted(connections(server)) == [1, 1, 2]


def test_a_rejection_that_cannot_be_confirmed_is_no_answer(carry_out):
    with Server(RUN, answer("404 Not Found"), answer("503 Busy"), DONE) as server:
        results = carry_out(endpoint_of(server.url), *polls(3))

    assert [result.outcome for result in results] == [Outcome.WAITING, Outcome.WAITING, Outcome.OVER]


def test_an_answer_about_another_run_is_asked_again_at_once(carry_out):
    with Server(RUN, ANOTHER, DONE) as server:
        results = carry_out(endpoint_of(server.url), *polls(2))

    assert results[1].run.succeeded
    assert sorted(connections(server)) == [1, 1, 2]


def test_an_api_that_always_answers_about_another_run_is_not_asked_twice_at_each_poll(carry_out):
    with Server(RUN, ANOTHER) as server:
        results = carry_out(endpoint_of(server.url), *polls(5))

    assert [result.run is None for result in results] == [False, True, True, True, True]
    assert len(server.asked) == 6


def test_a_request_for_a_new_connection_does_not_share_the_answer_of_another():
    async def main(server):
        async def read():
            return endpoint_of(server.url)

        client = SharedClient.acquire("networks", read)
        try:
            about = path_of(RUN_ID), RUN_ID
            await client.send(Request(*about))
            return await asyncio.gather(
                client.send(Request(*about)), client.send(Request(*about, fresh=True))
            )
        finally:
            await client.release()

    with Server(RUN) as server:
        replies = asyncio.run(main(server))

    assert [reply.status for reply in replies] == [200, 200]
    assert sorted(connections(server)) == [1, 1, 2]
