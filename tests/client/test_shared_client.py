"""What the waits of one process share, against a server on loopback."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
from carry_out import cancelled, longest_block, until
from samples import RUN_ID
from server import Server, answer, never

from airflow_anon.client import breaker, limiter
from airflow_anon.client.breaker import CircuitBreaker
from airflow_anon.client.endpoint import Endpoint
from airflow_anon.client.limiter import RequestLimiter
from airflow_anon.client.network import RELOAD_AT_MOST_EVERY
from airflow_anon.client.shared_client import CLIENTS, SharedClient
from airflow_anon.core.flow import NoResponse, Request, Response
from airflow_anon.core.ids import path_of
from airflow_anon.exceptions import AnonConfigurationError
from airflow_anon.simulator import Simulator

pytestmark = [
    pytest.mark.usefixtures("cheap_collections"),
    pytest.mark.filterwarnings("error::ResourceWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]
SPEED = 40.0


@pytest.fixture
def simulator():
    with Simulator(token="let-me-in") as simulator:
        yield simulator


class Reader:
    """Reads a connection, slowly if need be, and counts how often."""

    def __init__(self, host, password="let-me-in", delay=0.0, **extra):
        self.host, self.password, self.delay, self.extra = host, password, delay, extra
        self.reads = 0
        self.error = None

    async def __call__(self):
        self.reads += 1
        await asyncio.sleep(self.delay)
        if self.error:
            raise self.error
        return Endpoint.from_connection(
            "anon_default", host=self.host, password=self.password, extra=json.dumps(self.extra)
        )


@pytest.fixture
def read(simulator):
    return Reader(simulator.url)


def carried_out(main, loop=None):
    """Run *main* on a loop of its own, and see that nothing of it is left."""
    loop = loop or asyncio.new_event_loop()
    try:
        result = loop.run_until_complete(main)
        loop.run_until_complete(asyncio.sleep(0))
        assert not asyncio.all_tasks(loop)
        assert not CLIENTS.get(loop)
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    gc.collect()
    return result


@asynccontextmanager
async def joined(read, key="anon_default"):
    client = SharedClient.acquire(key, read)
    try:
        yield client
    finally:
        await client.release()


async def polled(read, run_id, key="anon_default"):
    """Do what one wait does for one poll."""
    async with joined(read, key) as client:
        return await client.send(Request(path_of(run_id)))


def polls(client, run_ids):
    return asyncio.gather(*(client.send(Request(path_of(run_id))) for run_id in run_ids))


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop that waits less than it says, by the clock of the fixture ``fast_time``."""

    def __init__(self):
        super().__init__()
        select = self._selector.select
        self._selector.select = lambda timeout=None: select(timeout and timeout / SPEED)


@pytest.fixture
def fast_time(monkeypatch, read):
    """Let the clocks run fast, so that a minute is over in a moment; a machine that is busy has time to answer."""
    read.extra["timeout"] = 30 * SPEED
    for name in ("time", "monotonic"):
        real = getattr(time, name)
        start = real()
        monkeypatch.setattr(time, name, lambda real=real, start=start: start + (real() - start) * SPEED)


# One client


@pytest.fixture
def _no_line_is_long(monkeypatch):
    """Let no line make the gate wider: it is the machine that is slow here, and not the API."""
    monkeypatch.setattr(limiter, "LONGEST_IN_QUEUE", 1000 * SPEED)


@pytest.mark.unmeasured
@pytest.mark.usefixtures("_no_line_is_long")
def test_many_waits_read_the_connection_once_and_use_few_connections(simulator, read):
    run_ids = [simulator.create_run("PENDING") for _ in range(300)]
    read.delay = 0.02

    async def main():
        await asyncio.gather(*(polled(read, run_id) for run_id in run_ids))
        async with joined(read):
            return [await asyncio.gather(*(polled(read, run_id) for run_id in run_ids)) for _ in range(2)]

    first, second = carried_out(main())

    assert {reply.status for reply in first + second} == {200}
    assert read.reads == 2
    assert simulator.requests == 900
    assert simulator.connections <= 20


def test_connections_of_different_names_share_nothing(simulator, read):
    run_id = simulator.create_run("PENDING")

    async def main():
        await asyncio.gather(polled(read, run_id, "one"), polled(read, run_id, "two"))

    carried_out(main())

    assert read.reads == 2
    assert simulator.connections == 2


def test_a_client_can_be_joined_again_while_it_closes(simulator, read):
    run_id = simulator.create_run("PENDING")

    async def main():
        client = SharedClient.acquire("x", read)
        await client.send(Request(path_of(run_id)))
        leaving = asyncio.create_task(client.release())
        await asyncio.sleep(0)
        reply = await polled(read, run_id, "x")
        await leaving
        return reply

    assert carried_out(main()).status == 200


def test_a_loop_that_is_gone_leaves_no_client_behind(simulator, read):
    run_id = simulator.create_run("PENDING")
    for _ in range(2):
        carried_out(polled(read, run_id))
    gc.collect()

    assert read.reads == 2
    assert not [clients for clients in CLIENTS.values() if clients]


def test_the_same_request_is_not_sent_twice_at_a_time(simulator, read):
    run_id, other = simulator.create_run("PENDING"), simulator.create_run("PENDING")
    simulator.add_faults("slow 50ms", run_id)

    async def main():
        async with joined(read) as client:
            return await polls(client, [run_id] * 50 + [other])

    replies = carried_out(main())

    assert {reply.status for reply in replies} == {200}
    assert simulator.requests_for(run_id) == 1
    assert simulator.requests_for(other) == 1


def test_a_closed_idle_connection_is_replaced(simulator, read):
    run_ids = [simulator.create_run("PENDING") for _ in range(5)]

    async def main():
        async with joined(read) as client:
            first = await polls(client, run_ids)
            simulator.drop_connections()
            return first + await polls(client, run_ids)

    replies = carried_out(main())

    assert [getattr(reply, "status", reply) for reply in replies] == [200] * 10


# Endings


@pytest.mark.parametrize("fault", ["slow 0s", "503", "reset", "garbage"])
def test_the_last_wait_closes_the_connections(simulator, read, fault):
    run_id = simulator.create_run("PENDING")
    simulator.add_faults(fault)

    async def main():
        async with joined(read) as client:
            await client.send(Request(path_of(run_id)))
            session = client._client.session
        return session.closed

    assert carried_out(main()) is True


def test_a_connection_that_makes_no_sense_fails_every_wait_before_any_request(simulator):
    read = Reader(simulator.url, timeout=0)

    async def main():
        return await asyncio.gather(*(polled(read, RUN_ID) for _ in range(20)), return_exceptions=True)

    errors = carried_out(main())

    assert {(type(error), error.field) for error in errors} == {(AnonConfigurationError, "timeout")}
    assert simulator.requests == 0


def test_a_wait_that_leaves_while_the_connection_is_read_leaves_nothing(simulator, read):
    read.delay = 0.02

    async def main():
        task = asyncio.create_task(polled(read, RUN_ID))
        await until(lambda: read.reads)
        await cancelled(task)

    carried_out(main())

    assert simulator.requests == 0


def test_a_wait_that_is_cancelled_twice_leaves_nothing(simulator, read):
    read.delay = 0.02

    async def main():
        task = asyncio.create_task(polled(read, RUN_ID))
        await until(lambda: read.reads)
        task.cancel()
        await asyncio.sleep(0)
        await cancelled(task)
        await asyncio.sleep(0.04)

    carried_out(main())


# Cancellation harms no other


def test_the_wait_that_reads_the_connection_may_be_cancelled(simulator, read):
    run_ids = [simulator.create_run("PENDING") for _ in range(3)]
    read.delay = 0.02

    async def main():
        tasks = [asyncio.create_task(polled(read, run_id)) for run_id in run_ids]
        await until(lambda: read.reads)
        await cancelled(tasks[0])
        return await asyncio.gather(*tasks[1:])

    assert [reply.status for reply in carried_out(main())] == [200, 200]
    assert read.reads == 1


def test_the_wait_that_asks_for_others_may_be_cancelled(simulator, read):
    run_id = simulator.create_run("PENDING")
    simulator.add_faults("slow 2s", run_id)

    async def main():
        tasks = [asyncio.create_task(polled(read, run_id)) for _ in range(10)]
        await until(lambda: simulator.requests_for(run_id))
        await cancelled(tasks[0])
        return await asyncio.gather(*tasks[1:])

    assert {reply.status for reply in carried_out(main())} == {200}
    assert simulator.requests_for(run_id) == 2


def test_a_wait_that_shares_an_answer_may_be_cancelled(simulator, read):
    run_id = simulator.create_run("PENDING")
    simulator.add_faults("slow 50ms", run_id)

    async def main():
        tasks = [asyncio.create_task(polled(read, run_id)) for _ in range(5)]
        await until(lambda: simulator.requests_for(run_id))
        await cancelled(tasks[1])
        return await asyncio.gather(tasks[0], *tasks[2:])

    assert {reply.status for reply in carried_out(main())} == {200}
    assert simulator.requests_for(run_id) == 1


def test_waits_in_line_may_be_cancelled_at_any_moment(simulator, read):
    run_ids = [simulator.create_run("PENDING") for _ in range(60)]
    simulator.add_faults("slow 10ms x200")

    async def main():
        async with joined(read) as client:
            tasks = [asyncio.create_task(polled(read, run_id)) for run_id in run_ids]
            for number, task in enumerate(tasks):
                if number % 3:
                    task.cancel()
                if number % 10 == 0:
                    await asyncio.sleep(0.004)
            replies = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)
            return replies, client._limiter

    replies, gate = carried_out(main())

    assert [getattr(reply, "status", None) for reply in replies[::3]] == [200] * 20
    assert gate.under_way == 0
    assert not [waiter for waiter, _ in gate.line if not waiter.done()]


def test_a_place_that_is_given_to_a_cancelled_wait_goes_to_the_next():
    async def main():
        gate = RequestLimiter()
        gate.fit(1, None)
        await gate.acquire()
        first, second = (asyncio.create_task(gate.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        gate.release()
        gate._take_turn(asyncio.get_running_loop())
        first.cancel()
        await asyncio.wait_for(second, 0.5)
        assert first.cancelled()
        gate.release()
        return gate.under_way

    assert carried_out(main()) == 0


def test_the_wait_that_finds_out_for_all_may_be_cancelled(simulator, read):
    run_ids = [simulator.create_run("PENDING") for _ in range(5)]

    async def main():
        async with joined(read) as client:
            await client.send(Request(path_of(run_ids[0])))
            client._breaker.trouble = NoResponse("away", 0, 0, "")
            simulator.add_faults("slow 2s")
            tasks = [asyncio.create_task(polled(read, run_id)) for run_id in run_ids]
            await until(lambda: simulator.requests == 2)
            await asyncio.sleep(0.02)
            assert simulator.requests == 2
            await cancelled(tasks[0])
            return await asyncio.gather(*tasks[1:])

    assert [reply.status for reply in carried_out(main())] == [200] * 4


# Order and limits


def test_requests_go_in_the_order_in_which_they_came():
    went = []

    async def pass_through(gate, number):
        await gate.acquire()
        went.append(number)
        await asyncio.sleep(0.001)
        gate.release()

    async def main():
        gate = RequestLimiter()
        await asyncio.gather(*(pass_through(gate, number) for number in range(300)))

    carried_out(main())

    assert went == list(range(300))


def test_few_requests_start_in_one_turn_of_the_loop():
    starts = []

    async def main():
        gate = RequestLimiter()
        gate.width = gate.widest = 1000
        turn = 0

        async def count_turns():
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        async def pass_through():
            await gate.acquire()
            starts.append(turn)
            gate.release()

        counting = asyncio.create_task(count_turns())
        await asyncio.gather(*(pass_through() for _ in range(200)))
        await cancelled(counting)

    carried_out(main())

    assert max(map(starts.count, starts)) <= 2 * limiter.STARTS_PER_TURN


def test_connections_are_opened_up_to_the_limit_while_answers_are_slow(simulator, monkeypatch):
    monkeypatch.setattr(limiter, "LONGEST_IN_QUEUE", 0.02)
    run_ids = [simulator.create_run("PENDING") for _ in range(60)]
    read = Reader(simulator.url, max_connections=25)
    simulator.add_faults("slow 200ms x60")

    async def main():
        async with joined(read) as client:
            slow = await polls(client, run_ids)
            widest = simulator.connections
            quick = await polls(client, run_ids)
            for run_id in run_ids[:20]:
                await client.send(Request(path_of(run_id)))
            return slow + quick, widest, client._limiter.width

    replies, connections, width = carried_out(main())

    assert {reply.status for reply in replies} == {200}
    assert connections == 25
    assert simulator.connections == 25
    assert width == limiter.FIRST_WIDTH


@pytest.mark.parametrize("most", [1, 3])
def test_a_small_limit_on_connections_is_held(simulator, most):
    run_ids = [simulator.create_run("PENDING") for _ in range(20)]
    read = Reader(simulator.url, max_connections=most)

    async def main():
        async with joined(read) as client:
            return await polls(client, run_ids)

    assert len(carried_out(main())) == 20
    assert simulator.connections <= most


def test_the_limit_on_requests_per_second_is_held(simulator):
    run_ids = [simulator.create_run("PENDING") for _ in range(30)]
    read = Reader(simulator.url, max_requests_per_second=50)

    async def main():
        async with joined(read) as client:
            await polls(client, run_ids)

    carried_out(main())

    arrivals = simulator.arrivals
    assert arrivals[-1] - arrivals[0] >= 29 / 50 * 0.95
    # A busy machine makes some of them late, but not all.
    assert min(after - before for before, after in pairwise(arrivals)) < 1 / 50 * 1.5


@pytest.mark.unmeasured
@pytest.mark.usefixtures("_no_line_is_long")
def test_a_thousand_polls_due_at_once_do_not_block_the_loop(simulator, read):
    run_ids = [simulator.create_run("PENDING") for _ in range(1000)]

    async def main():
        async with joined(read) as client:
            await polls(client, run_ids[:1])
            return await longest_block(polls(client, run_ids))

    assert carried_out(main()) < 0.25
    assert simulator.connections <= 2 * limiter.FIRST_WIDTH


# Pauses


def test_one_wait_that_is_asked_to_pause_stops_all(simulator, read):
    run_ids = [simulator.create_run("PENDING") for _ in range(50)]
    simulator.add_faults("429 retry-after=30")

    async def main():
        async with joined(read) as client:
            return await polls(client, run_ids[:1]), await polls(client, run_ids)

    _, replies = carried_out(main())

    assert simulator.requests == 1
    assert {reply.status for reply in replies} == {429}
    assert {int(reply.headers["Retry-After"]) for reply in replies} <= {29, 30}
    assert [
        run_id for run_id, reply in zip(run_ids, replies, strict=True) if run_id in reply.target
    ] == run_ids


def test_after_a_pause_one_request_at_a_time_finds_out(simulator, read):
    run_ids = [simulator.create_run("PENDING") for _ in range(50)]

    async def main():
        async with joined(read) as client:
            simulator.add_faults("429 retry-after=30")
            await polls(client, run_ids[:1])
            client._breaker.until = 0.0
            simulator.add_faults("429 retry-after=30")
            still = await polls(client, run_ids)
            requests = simulator.requests
            client._breaker.until = 0.0
            return still, requests, await polls(client, run_ids)

    still, requests, after = carried_out(main())

    assert {reply.status for reply in still} == {429}
    assert requests == 2
    assert {reply.status for reply in after} == {200}
    assert simulator.requests == 52


def reply_of(status, number=1, **headers):
    target = f"http://api/{number}"
    if status is None:
        return NoResponse("connection refused", 0.0, 0.0, target)
    headers = {name.replace("_", "-"): str(value) for name, value in headers.items()}
    return Response(status, headers, b"", 0.0, 0.0, target)


def heeded(*replies):
    breaker = CircuitBreaker()
    for reply in replies:
        breaker.heed(reply)
    return breaker


@pytest.mark.parametrize(
    "late",
    [
        reply_of(200),
        reply_of(404),
        reply_of(429),
        reply_of(429, Retry_After=5),
        reply_of(500),
        reply_of(None),
        reply_of(503, Retry_After=5),
    ],
)
def test_what_was_asked_before_a_pause_does_not_shorten_it(late):
    breaker = heeded(reply_of(429, 9, Retry_After=60), late, replace(late, target="http://api/2"))

    assert 58 < breaker.until - time.monotonic() <= 60
    assert breaker.again("http://api/3").headers["Retry-After"] in {"59", "60"}


def test_a_longer_pause_takes_the_place_of_a_shorter():
    breaker = heeded(reply_of(429, Retry_After=5), reply_of(429, 2, Retry_After=60))

    assert 58 < breaker.until - time.monotonic() <= 60


@pytest.mark.parametrize("status", [None, 500, 502, 408, 204])
def test_an_outage_is_what_several_waits_meet(status):
    breaker = heeded(*(reply_of(status, number) for number in (1, 2)))
    assert not breaker.holds("http://api/9")

    breaker.heed(reply_of(status, 3))

    assert breaker.holds("http://api/9")
    assert 0 < breaker.until - time.monotonic() <= 2
    answer = breaker.again("http://api/9")
    assert answer.target == "http://api/9"
    assert getattr(answer, "status", None) == status


def test_pauses_of_an_outage_grow_to_a_limit():
    breaker, pauses = CircuitBreaker(), []
    for number in range(20):
        breaker.until = min(breaker.until, time.monotonic())
        breaker.heed(reply_of(None, number))
        pauses.append(round(breaker.until - time.monotonic()))

    assert pauses[2:7] == [2, 4, 8, 15, 15]
    assert pauses[-1] == 15


def test_a_good_answer_ends_an_outage():
    breaker = heeded(*(reply_of(None, number) for number in range(4)))
    breaker.until = time.monotonic()

    breaker.heed(reply_of(200))

    assert not breaker.holds("http://api/9")
    breaker.heed(reply_of(None, 1))
    assert not breaker.holds("http://api/9")


def test_a_run_that_always_fails_keeps_nobody_back():
    breaker = heeded(*[reply_of(500, 1)] * 50)

    assert not breaker.holds("http://api/2")


def test_who_failed_already_asks_for_itself_after_a_pause():
    breaker = heeded(*(reply_of(500, number) for number in (1, 2, 3)))
    assert breaker.holds("http://api/1")
    breaker.until = time.monotonic()

    assert not breaker.holds("http://api/1")
    assert breaker.holds("http://api/4")
    breaker.heed(reply_of(500, 1))
    assert not breaker.is_paused


async def wait_through(client, run_id, every):
    """Poll as a wait does until an answer is good; say how many polls went unanswered."""
    missed = 0
    while getattr(reply := await client.send(Request(path_of(run_id))), "status", 0) != 200:
        missed += 1
        asked = float(getattr(reply, "headers", {}).get("Retry-After", 0))
        await asyncio.sleep(max(every, asked) * (1 + 0.25 * (hash(run_id) % 100) / 100))
    return missed


@pytest.mark.unmeasured
@pytest.mark.usefixtures("_no_line_is_long")
def test_a_thousand_waits_get_through_a_minute_of_throttling_with_hardly_a_request_more(
    simulator, read, fast_time
):
    run_ids = [simulator.create_run("PENDING") for _ in range(1000)]
    simulator.start_outage("429", retry_after="10")

    async def main():
        async with joined(read) as client:
            waits = asyncio.gather(*(wait_through(client, run_id, 5) for run_id in run_ids))
            await asyncio.sleep(60)
            during = simulator.requests
            simulator.stop_outage()
            await waits
            return during

    during = carried_out(main(), FastLoop())

    assert during <= 40
    assert simulator.requests <= 1.2 * 1000
    assert simulator.connections <= 2 * limiter.FIRST_WIDTH


@pytest.mark.unmeasured
@pytest.mark.parametrize("kind", ["503", "refused"])
def test_an_outage_costs_few_requests_and_all_waits_recover(simulator, read, fast_time, kind):
    run_ids = [simulator.create_run("PENDING") for _ in range(300)]

    async def main():
        async with joined(read) as client:
            await polls(client, run_ids[:20])
            before = simulator.requests
            simulator.start_outage(kind)
            waits = asyncio.gather(*(wait_through(client, run_id, 5) for run_id in run_ids))
            await asyncio.sleep(40)
            during = simulator.requests - before
            simulator.stop_outage()
            return during, max(await waits)

    during, missed = carried_out(main(), FastLoop())

    assert during <= 50
    # The polls of the outage, and of one pause more.
    assert missed <= (40 + breaker.LONGEST_QUIET) / 5 + 1


@pytest.mark.unmeasured
def test_runs_that_always_fail_do_not_slow_a_healthy_one(simulator, read, fast_time):
    sick = [simulator.create_run("PENDING") for _ in range(3)]
    healthy = simulator.create_run("PENDING")
    for run_id in sick:
        simulator.add_faults("500 x1000", run_id)

    async def main():
        async with joined(read) as client:
            waits = [asyncio.create_task(wait_through(client, run_id, 3)) for run_id in sick]
            missed = 0
            for _ in range(6):
                await asyncio.sleep(10.7)
                missed += (await client.send(Request(path_of(healthy)))).status != 200
            for wait in waits:
                await cancelled(wait)
            return missed

    assert carried_out(main(), FastLoop()) <= 2


def test_a_server_that_hangs_keeps_no_more_than_the_limit_busy(monkeypatch):
    monkeypatch.setattr(limiter, "LONGEST_IN_QUEUE", 0.02)
    run_ids = [f"3f0c7a52-9d1e-4b6b-8a70-{number:012x}" for number in range(60)]
    with Server(never) as server:
        read = Reader(server.url, timeout=0.2, max_connections=20)

        async def main():
            async with joined(read) as client:
                return await polls(client, run_ids)

        replies = carried_out(main())
        asked = len(server.asked)

    assert {reply.reason for reply in replies} == {"timed out"}
    assert asked < 20 + breaker.FAILURES_OF_AN_OUTAGE


# A connection that changes


def test_a_rotated_token_is_read_once_and_not_by_every_wait(simulator, read):
    run_ids = [simulator.create_run("PENDING") for _ in range(50)]

    async def main():
        async with joined(read) as client:
            await polls(client, run_ids)
            client._reloaded_at -= RELOAD_AT_MOST_EVERY
            simulator.token = read.password = "a-new-one"
            refused = await polls(client, run_ids)
            await asyncio.gather(*(client.reload() for _ in run_ids))
            await client.reload()
            return refused, await polls(client, run_ids)

    refused, after = carried_out(main())

    assert {reply.status for reply in refused} == {401}
    assert {reply.status for reply in after} == {200}
    assert read.reads == 2


def test_a_connection_that_cannot_be_read_again_stays_as_it_was(simulator, read):
    run_id = simulator.create_run("PENDING")

    async def main():
        async with joined(read) as client:
            await client.send(Request(path_of(run_id)))
            before = client.endpoint
            client._reloaded_at -= RELOAD_AT_MOST_EVERY
            read.error = AnonConfigurationError("gone", field="anon_conn_id")
            await client.reload()
            assert client.endpoint is before
            client._reloaded_at -= RELOAD_AT_MOST_EVERY
            read.error = AnonConfigurationError("nonsense", field="timeout")
            with pytest.raises(AnonConfigurationError, match="nonsense"):
                await client.reload()
            return await client.send(Request(path_of(run_id)))

    assert carried_out(main()).status == 200


def test_a_connection_that_says_the_same_keeps_its_client(simulator, read):
    run_id = simulator.create_run("PENDING")

    async def main():
        async with joined(read) as client:
            await client.send(Request(path_of(run_id)))
            before = client.endpoint
            client._reloaded_at -= RELOAD_AT_MOST_EVERY
            await client.reload()
            await client.send(Request(path_of(run_id)))
            return client.endpoint is before

    assert carried_out(main()) is True
    assert (read.reads, simulator.connections) == (2, 1)


def test_a_request_that_is_under_way_when_the_connection_changes_is_not_cut_off(simulator, read):
    run_id = simulator.create_run("PENDING")

    async def main():
        async with joined(read) as client:
            await polls(client, [simulator.create_run("PENDING")])
            simulator.add_faults("slow 1s", run_id)
            waiting = asyncio.create_task(client.send(Request(path_of(run_id))))
            await until(lambda: simulator.requests_for(run_id))
            client._reloaded_at -= RELOAD_AT_MOST_EVERY
            read.extra = {"max_connections": 7}
            await client.reload()
            return await waiting

    assert carried_out(main()).status == 200
    assert simulator.requests_for(run_id) == 1


def test_a_connection_that_appears_later_is_found(simulator, read):
    run_id = simulator.create_run("PENDING")
    read.error = AnonConfigurationError("none", field="anon_conn_id")

    async def main():
        async with joined(read) as client:
            with pytest.raises(AnonConfigurationError):
                await client.send(Request(path_of(run_id)))
            read.error = None
            return await client.send(Request(path_of(run_id)))

    assert carried_out(main()).status == 200


def test_a_client_that_was_left_is_not_used(simulator, read):
    async def main():
        async with joined(read) as client:
            pass
        with pytest.raises(RuntimeError, match="after its last wait left"):
            _ = client._opened

    carried_out(main())


def test_an_answer_of_the_server_comes_back_as_it_was(monkeypatch):
    with Server(answer("418 I'm a teapot", b"short and stout", "X-Kind: pot")) as server:
        reply = carried_out(polled(Reader(server.url), RUN_ID))

    assert (reply.status, reply.body, reply.headers["x-kind"]) == (418, b"short and stout", "pot")
    assert reply.conn_id == "anon_default"
