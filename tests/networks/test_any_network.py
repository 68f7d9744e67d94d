"""Whatever a network does to a wait, at any moment: it ends right or goes on, is never hot, and never hangs."""

from __future__ import annotations

import random
import threading

import pytest
from networks.conftest import Timed, endpoint_of
from networks.relay import Fate, Relay

from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import Outcome, poll
from airflow_anon.core.state import WaitState

POLLS = 6
TIMEOUT = 0.3
FATES = [*[Fate.PASS] * 3, *Fate]


@pytest.mark.parametrize("seed", range(6))
def test_a_wait_over_a_bad_network_ends_right_or_goes_on(carry_out, simulator, seed):
    drawn = random.Random(seed)
    run_id = simulator.create_run("PENDING")
    policy, state = WaitPolicy(), WaitState(run_id)
    # The first poll is a good one: later ones take what they get, and ask no further for a minute.
    fates = {}

    def fate(connection, number):
        if not fates:
            return fates.setdefault((connection, number), Fate.PASS)
        return fates.setdefault((connection, number), drawn.choice(FATES))

    with Relay(simulator.port, fate) as relay, Timed() as timed:
        results = carry_out(
            endpoint_of(relay.url, timeout=TIMEOUT), *(poll(policy, state) for _ in range(POLLS))
        )

    assert {result.outcome for result in results} == {Outcome.WAITING}
    assert {result.run.status for result in results if result.run} == {"PENDING"}
    assert len(relay.requests) <= 1.5 * POLLS
    assert timed.seconds < POLLS * (TIMEOUT + 0.5)


@pytest.mark.parametrize("fate", [fate for fate in Fate if fate not in {Fate.PASS, Fate.DELAY}])
@pytest.mark.parametrize("first", [False, True], ids=["used connections", "all connections"])
def test_a_network_that_always_does_the_same_makes_no_wait_hot(carry_out, simulator, fate, first):
    run_id = simulator.create_run("PENDING")
    policy, state = WaitPolicy(), WaitState(run_id)
    begun = []

    def same(connection, number):
        begun.append(1)
        return fate if len(begun) > 1 and (first or number > 1) else Fate.PASS

    with Relay(simulator.port, same) as relay:
        results = carry_out(
            endpoint_of(relay.url, timeout=TIMEOUT),
            *(poll(policy, state) for _ in range(POLLS)),
            between=lambda: threading.Event().wait(0.55),
        )

    assert {result.outcome for result in results} == {Outcome.WAITING}
    assert len(relay.requests) <= 1.5 * POLLS
