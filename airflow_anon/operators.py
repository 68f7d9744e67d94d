"""The operator that looks at a run once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.providers.common.compat.sdk import Context


class AnonWorkflowRunOperator(BaseOperator):
    """
    Fetches a workflow run as it is now, without waiting for it.

    The XCom ``return_value`` is the run's JSON, whatever its status: a run that failed does not
    fail this task. To wait for a run use :class:`~airflow_anon.sensors.AnonWorkflowRunSensor`.

    :param workflow_run_id: the run's UUID. (templated)
    :param anon_conn_id: the Airflow connection to the API. (templated)
    """

    template_fields: Sequence[str] = ("workflow_run_id", "anon_conn_id")
    ui_color = "#e6f1f2"

    def __init__(self, *, workflow_run_id: str, anon_conn_id: str = "anon_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.workflow_run_id = workflow_run_id
        self.anon_conn_id = anon_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Fetch the run and return its JSON."""
        from airflow_anon.hooks import AnonHook

        with AnonHook(self.anon_conn_id) as hook:
            run = hook.get_workflow_run(self.workflow_run_id)
        self.log.info("Workflow run %s is %s.", run.id, run.status)
        return run.to_payload()
