"""
The link from a task to its run.

Airflow shows what a task has left as an XCom under ``xcom_key``, and asks nobody else: Airflow 3
does not run a provider's code to show a page, and Airflow 2 is told the same. So the address is
kept as soon as it is known, while the task still waits.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

    from airflow_anon.client.endpoint import Endpoint

log = logging.getLogger(__name__)

NOT_KEPT = "The link to the run could not be kept for Airflow's pages; the task goes on without it."


class AnonWorkflowRunLink(BaseOperatorLink):
    """
    Leads to the task's run: by the connection's ``run_url_template``, or to the API's own address.

    Never raises; without a link there is an empty text, as Airflow expects.
    """

    name = "Anon run"
    xcom_key = "_link_AnonWorkflowRunLink"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address that the task has kept; Airflow 3 asks for it at the end of each start on a worker."""
        try:
            url = getattr(operator, "run_url", None) or plain_xcom().get_value(
                ti_key=ti_key, key=self.xcom_key
            )
        except Exception:
            log.warning("The link to the run could not be read.", exc_info=True)
            return ""
        return url if isinstance(url, str) and url.startswith(("https://", "http://")) else ""


def keep_link(
    operator: Any,
    context: Context,
    endpoint: Endpoint,
    workflow_run_id: str,
    workflow_id: str | None = None,
    *,
    stays: bool = False,
) -> None:
    """
    Keep the address of a task's run for Airflow's pages, unless that is done.

    What goes wrong here fails no task, and is logged.

    :param workflow_id: unknown before the run is seen; an address that needs it is kept then.
    :param stays: whether the task stays on its worker. One that leaves it needs no request of its own: Airflow 3
        asks for the link at the end of each start, and keeps it.
    """
    try:
        url = run_url(endpoint, workflow_run_id, workflow_id)
        operator.run_url = url or operator.run_url
        if (stays or not AIRFLOW_V_3_0_PLUS) and operator.run_url != operator.kept_run_url:
            operator.kept_run_url = operator.run_url
            plain_xcom().set(**link_xcom(context["ti"], operator.run_url))
    except Exception:
        operator.log.warning(NOT_KEPT, exc_info=True)


def run_url(endpoint: Endpoint, workflow_run_id: str, workflow_id: str | None) -> str | None:
    """Return the address of a run; None while it takes a workflow id that is not known yet."""
    from urllib.parse import quote

    from airflow_anon.core.ids import path_of

    if endpoint.run_url_template is None:
        return endpoint.url(path_of(workflow_run_id))
    known = {"id": workflow_run_id, "workflow_id": workflow_id}
    quoted = {name: quote(value, safe="") for name, value in known.items() if value is not None}
    try:
        return endpoint.run_url_template.format(**quoted)
    except KeyError:
        return None


def link_xcom(ti: Any, url: str | None) -> dict[str, Any]:
    """Return the arguments with which :func:`plain_xcom` keeps an address."""
    return {"key": AnonWorkflowRunLink.xcom_key, "value": url, **place_of(ti)}


def place_of(ti: Any) -> dict[str, Any]:
    """Return which task instance an XCom belongs to."""
    return {name: getattr(ti, name) for name in ("dag_id", "task_id", "run_id", "map_index")}


def plain_xcom() -> Any:
    """
    Return what keeps XComs in Airflow's own database, whatever backend of its own there is.

    Airflow looks for links there, and there alone.
    """
    from airflow.providers.common.compat.sdk import XCom

    return next(kind for kind in XCom.__mro__ if kind.__name__ == "BaseXCom")
