"""A listener as a user installs one: it hears of the ends of tasks."""

from __future__ import annotations

import sys

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


@hookimpl
def on_task_instance_success(task_instance):
    print(f"heard of {task_instance.task_id}")


@hookimpl
def on_task_instance_skipped(task_instance):
    print(f"heard of {task_instance.task_id}")


class ListenerPlugin(AirflowPlugin):
    name = "ends"
    listeners = [sys.modules[__name__]]  # noqa: RUF012 - as Airflow's own
