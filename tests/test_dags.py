"""Whole DAGs, run by Airflow itself against its metadata database: the example DAGs, and every end."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import re
import runpy
import socketserver
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from airflow.models import DagBag
from airflow.providers.common.compat.sdk import BaseSensorOperator
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_3_PLUS
from snippets import SNIPPETS

import airflow_anon.core.policy
import airflow_anon.core.polling
from airflow_anon.operators import AnonWorkflowRunOperator
from airflow_anon.simulator import Simulator

HERE = Path(__file__).parent


@pytest.fixture
def api(monkeypatch, hurried_airflow):
    with Simulator(token="let-me-in") as simulator:
        monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", simulator.connection())
        monkeypatch.setattr(airflow_anon.core.policy, "SHORTEST_PAUSE", 0.2)
        # What is documented, or an example, has an interval for use and not for a try.
        monkeypatch.setattr(airflow_anon.core.policy.WaitPolicy, "interval", lambda policy, now: 0.2)
        yield simulator


def run_dag(folder, name, conf):
    names = runpy.run_path(str(folder / f"{name}.py"))
    dag = next(
        value.dag
        for value in names.values()
        if isinstance(value, BaseSensorOperator | AnonWorkflowRunOperator)
    )
    dag_run = dag.test(run_conf=conf)
    return dag_run, {ti.task_id: ti for ti in dag_run.get_task_instances()}


@pytest.mark.unmeasured
@pytest.mark.timeout(300)
def test_every_end_is_what_airflow_records(database, api):
    conf = {
        "ok": api.create_run("COMPLETED"),
        "later": api.create_run("PENDING 1 polls, IN_PROGRESS 1 polls, COMPLETED"),
        "bad": api.create_run("FAILED (post_invoice)"),
        "soft": api.create_run("FAILED"),
        "no_action": api.create_run("COMPLETED_WITH_NO_ACTION_TAKEN"),
        "conn": "anon_default",
    }

    _, tasks = run_dag(database, "every_outcome", conf)

    states = {task_id: str(ti.state) for task_id, ti in tasks.items()}
    for mode in ("poke", "reschedule"):
        assert states[f"{mode}_ok"] == states[f"{mode}_later"] == "success"
        assert states[f"{mode}_bad"] == "failed"
        assert states[f"{mode}_soft"] == states[f"{mode}_no_action"] == "skipped"
        assert tasks[f"{mode}_ok"].xcom_pull(task_ids=f"{mode}_ok") == api.run(conf["ok"])
    assert states["fetch"] == states["read"] == "success"
    assert tasks["read"].xcom_pull(task_ids="read") == api.run(conf["bad"])


@pytest.mark.unmeasured
@pytest.mark.timeout(300)
def test_many_runs_are_waited_for_in_one_task(database, api):
    good = [api.create_run(f"PENDING {polls} polls, COMPLETED") for polls in (1, 2, 3)]
    mixed = [*good, api.create_run("PENDING 2 polls, FAILED (post_invoice)")]

    _, tasks = run_dag(database, "many_outcomes", {"good": good, "mixed": mixed})

    states = {task_id: str(ti.state) for task_id, ti in tasks.items()}
    for mode in ("poke", "reschedule", "deferred"):
        ends = {"good": "success", "count": "success", "bad": "failed", "soft": "skipped"}
        assert {name: states[f"{mode}_{name}"] for name in ends} == ends
        assert tasks[f"{mode}_count"].xcom_pull(task_ids=f"{mode}_count") == 3
    for task_id in ("poke_good", "reschedule_good", "deferred_good", "jinja", "mapped"):
        assert states[task_id] == "success"
        assert tasks[task_id].xcom_pull(task_ids=task_id) == [api.run(run_id) for run_id in good]
    assert states["none"] == "success"
    assert tasks["none"].xcom_pull(task_ids="none") == []


@pytest.mark.unmeasured
@pytest.mark.timeout(300)
def test_many_runs_are_waited_for_by_a_dag_that_is_tested_within_an_event_loop(database, api):
    ids = [api.create_run(f"PENDING {polls} polls, COMPLETED") for polls in (1, 2)]

    async def tested():
        return run_dag(database, "many_in_a_loop", {"ids": ids})

    _, tasks = asyncio.run(tested())

    assert str(tasks["wait"].state) == "success"
    assert tasks["wait"].xcom_pull(task_ids="wait") == [api.run(run_id) for run_id in ids]


EXAMPLES = HERE.parent / "airflow_provider_anon" / "example_dags"
SUCCESS, SKIPPED, FAILED = "success", "skipped", "failed"


def run_example(folder, name, conf=None):
    """Run the DAG that has the name of its file and return the state of each of its tasks, by id and map index."""
    bag = DagBag(str(folder / f"{name}.py"))
    assert bag.import_errors == {}
    dag_run = bag.dags[name].test(run_conf=conf)
    tasks = {(ti.task_id, ti.map_index): ti for ti in dag_run.get_task_instances()}
    return str(dag_run.state), {key: str(ti.state) for key, ti in tasks.items()}, tasks


def test_every_example_is_run_here():
    tests = Path(__file__).read_text(encoding="utf-8")

    assert [path.stem for path in EXAMPLES.glob("*.py") if f'"{path.stem}"' not in tests] == []


def test_the_example_waits_for_a_run_and_hands_its_json_on(database, api):
    run_id = api.create_run("PENDING 1 polls, COMPLETED")

    state, states, _ = run_example(database, "anon_wait_for_run", {"workflow_run_id": run_id})

    assert state == SUCCESS
    assert set(states.values()) == {SUCCESS}


@pytest.mark.parametrize(
    ("script", "states"),
    [
        (
            "PENDING 1 polls, COMPLETED",
            {
                "wait": SUCCESS,
                "publish": SUCCESS,
                "tell_nobody": SKIPPED,
                "wait_or_skip": SUCCESS,
                "publish_unless_skipped": SUCCESS,
            },
        ),
        (
            "PENDING 1 polls, COMPLETED_WITH_NO_ACTION_TAKEN",
            {
                "wait": SUCCESS,
                "publish": SKIPPED,
                "tell_nobody": SUCCESS,
                "wait_or_skip": SKIPPED,
                "publish_unless_skipped": SKIPPED,
            },
        ),
    ],
    ids=["something was done", "nothing was done"],
)
def test_the_example_branches_on_whether_anything_was_done(database, api, script, states):
    conf = {"workflow_run_id": api.create_run(script)}

    _, found, _ = run_example(database, "anon_branch_on_no_action", conf)

    assert {task_id: state for (task_id, _), state in found.items() if task_id in states} == states


def test_the_example_maps_over_runs(database, api):
    ids = [api.create_run("PENDING 1 polls, COMPLETED"), api.create_run("COMPLETED_WITH_NO_ACTION_TAKEN")]

    state, states, tasks = run_example(database, "anon_map_over_runs", {"workflow_run_ids": ids})

    assert state == SUCCESS
    assert [states["wait", index] for index in range(2)] == [SUCCESS, SUCCESS]
    ends = tasks["sum_up", -1].xcom_pull(task_ids="sum_up")
    assert ends == ["COMPLETED", "COMPLETED_WITH_NO_ACTION_TAKEN"]


def test_the_example_waits_for_many_runs_in_one_task(database, api):
    ids = [api.create_run("PENDING 1 polls, COMPLETED"), api.create_run("IN_PROGRESS 2 polls, COMPLETED")]

    state, states, _ = run_example(database, "anon_many_runs", {"workflow_run_ids": ids})

    assert state == states["wait", -1] == SUCCESS


@pytest.mark.parametrize(
    ("name", "end", "ends"),
    [("anon_taskflow", "FAILED", FAILED), ("anon_zero_worker", "COMPLETED", SUCCESS)],
)
def test_the_example_ends_as_its_run(database, api, name, end, ends):
    run_id = api.create_run(f"PENDING 2 polls, {end}")

    _, states, _ = run_example(database, name, {"workflow_run_id": run_id})

    assert states["wait", -1] == ends


def test_the_example_asks_for_user_input(database, api, capsys):
    run_id = api.create_run("PENDING 1 polls, AWAITING_USER_INPUT (approve) 2 polls, COMPLETED")

    state, _, _ = run_example(database, "anon_wait_for_user_input", {"workflow_run_id": run_id})

    assert state == SUCCESS
    assert capsys.readouterr().out.count(f"Workflow run {run_id} waits for an answer: approve") == 1


def test_the_documented_notifier_sends_a_mail(database, api, mailbox):
    (snippet,) = (it for it in SNIPPETS if it.page == "people.md" and "SmtpNotifier" in it.code)
    (database / "asks_by_mail.py").write_text(snippet.code, encoding="utf-8")
    run_id = api.create_run("PENDING 1 polls, AWAITING_USER_INPUT (approve) 2 polls, COMPLETED")

    state, _, _ = run_example(database, "asks_by_mail", {"workflow_run_id": run_id, "ask": "ada@example.com"})

    assert state == SUCCESS
    assert [mail.recipients for mail in mailbox] == [["ada@example.com"]]
    assert "A run waits for you: approve" in mailbox[0].text
    assert run_id in mailbox[0].text


@pytest.mark.parametrize(("end", "events"), [("COMPLETED", 1), ("FAILED", 0)])
def test_the_example_updates_an_asset_at_a_good_end(database, api, end, events):
    conf = {"workflow_run_id": api.create_run(f"PENDING 1 polls, {end}")}
    before = count_asset_events()

    run_example(database, "anon_asset_from_run", conf)

    assert count_asset_events() - before == events


def count_asset_events():
    if AIRFLOW_V_3_0_PLUS:
        from airflow.models.asset import AssetEvent as Event
    else:
        from airflow.models.dataset import DatasetEvent as Event
    from airflow.utils.session import create_session

    with create_session() as session:
        return session.query(Event).count()


@dataclass
class Mail:
    """A mail as an SMTP server took it."""

    recipients: list[str]
    text: str


class Letterbox(socketserver.StreamRequestHandler):
    """As much of an SMTP server as takes a mail."""

    def handle(self):
        self.wfile.write(b"220 here\r\n")
        recipients = []
        for line in self.rfile:
            word = line[:4].upper()
            if word == b"RCPT":
                recipients.append(re.search(rb"<(.+)>", line)[1].decode())
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                message = b"".join(iter(self.rfile.readline, b".\r\n"))
                parsed = email.message_from_bytes(message, policy=email.policy.default)
                body = "".join(part.get_content() for part in parsed.walk() if not part.is_multipart())
                self.server.mails.append(Mail(recipients, f"{parsed['Subject']}\n{body}"))
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 well\r\n")


@pytest.fixture
def mailbox(monkeypatch):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Letterbox) as server:
        server.mails = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": server.server_address[1],
            "extra": {"disable_ssl": True, "disable_tls": True},
        }
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        yield server.mails
        server.shutdown()


@pytest.mark.timeout(300)
@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="Airflow has no retry policies")
def test_of_three_errors_the_policy_retries_lost_contact_alone_and_after_its_own_delay(
    database, api, monkeypatch
):
    # Time for one answer, however slow the machine, and for no third request before contact is lost.
    monkeypatch.setattr(airflow_anon.core.polling, "FIRST_POLL_PATIENCE", 1.0)
    conf = {
        "lost": api.create_run("COMPLETED"),
        "refused": api.create_run("COMPLETED"),
        "bad": api.create_run("FAILED"),
    }
    api.add_faults("503 x2", conf["lost"])
    api.add_faults("401", conf["refused"])

    _, tasks = run_dag(database, "retries", conf)

    ends = {task_id: (str(ti.state), ti.try_number) for task_id, ti in tasks.items()}
    assert ends == {"lost": ("success", 2), "refused": ("failed", 1), "bad": ("failed", 1)}
    assert {name: api.requests_for(run_id) for name, run_id in conf.items()} == {
        "lost": 3,
        "refused": 1,
        "bad": 1,
    }
