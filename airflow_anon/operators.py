"""The operator that polls a run once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_anon.links import AnonWorkflowRunLink, keep_link

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from airflow.providers.common.compat.sdk import Context, XComArg


class AnonWorkflowRunOperator(BaseOperator):
    """
    Fetches a workflow run as it is now, without waiting for it.

    The XCom ``return_value`` is the run's JSON, whatever its status: a run that failed does not
    fail this task. To wait for a run use :class:`~airflow_anon.sensors.AnonWorkflowRunSensor`.

    :param workflow_run_id: the run's UUID. (templated)
    :param anon_conn_id: the Airflow connection to the API. (templated)
    """

    template_fields: Sequence[str] = ("workflow_run_id", "anon_conn_id")
    operator_extra_links = (AnonWorkflowRunLink(),)
    ui_color = "#e6f1f2"

    run_url: str | None = None
    kept_run_url: str | None = None

    if TYPE_CHECKING:

        @property
        def output(self) -> Any:
            """The XCom, for a task to take: for type checkers its value, which Airflow puts in its place."""

    def __init__(
        self,
        *,
        workflow_run_id: str | UUID | XComArg,
        anon_conn_id: str = "anon_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_run_id = workflow_run_id
        self.anon_conn_id = anon_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Fetch the run and return its JSON."""
        from airflow_anon.core.ids import normalise_id
        from airflow_anon.hooks import AnonHook

        workflow_run_id = normalise_id(self.workflow_run_id)
        with AnonHook(self.anon_conn_id) as hook:
            keep_link(self, context, hook.get_conn().endpoint, workflow_run_id)
            run = hook.get_workflow_run(workflow_run_id)
            keep_link(self, context, hook.get_conn().endpoint, workflow_run_id, run.workflow_id)
        self.log.info("Workflow run %s is %s.", run.id, run.status)
        return run.to_payload()
