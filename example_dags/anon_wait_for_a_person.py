"""
Wait for a run that stops to ask a person: send a mail when it does, and give the person two days.

The callback is called once each time the run begins to wait for somebody, in every mode. Any
callable will do, and any Airflow notifier: for Slack put ``SlackNotifier`` in the place of
``SmtpNotifier``, or both into a list. It needs a connection ``smtp_default``.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, Param
from airflow.providers.smtp.notifications.smtp import SmtpNotifier

from airflow_anon.sensors import AnonWorkflowRunSensor

with DAG(
    dag_id="anon_wait_for_a_person",
    schedule=None,
    params={
        "workflow_run_id": Param(type="string", format="uuid", description="The run to wait for."),
        "ask": Param("approvers@example.com", type="string", description="Who is asked."),
    },
    tags=["anon"],
):
    wait = AnonWorkflowRunSensor(
        task_id="wait",
        workflow_run_id="{{ params.workflow_run_id }}",
        deferrable=True,
        poke_interval=2,  # for the demo; the usual 60 suits most runs
        timeout=timedelta(days=7),
        user_input_timeout=timedelta(days=2),
        on_awaiting_user_input_callback=SmtpNotifier(
            from_email="airflow@example.com",
            to="{{ params.ask }}",
            subject="A run waits for you: {{ workflow_run.currentStateName }}",
            html_content="Workflow run {{ workflow_run.id }} goes on when you have answered.",
        ),
    )
