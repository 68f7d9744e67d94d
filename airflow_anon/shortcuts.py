"""Whether a sensor can start, and end, in the triggerer without any worker, and why not if it cannot."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import XComArg, conf, get_listener_manager
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseSensorOperator

# What a template may use in the triggerer: facts of the DAG run. Anything else might need what only
# a worker can ask for, and a triggerer that asks for it waits for ever.
ROOTS_FOR_TRIGGERER = frozenset(
    {
        "dag", "dag_run", "data_interval_end", "data_interval_start", "ds", "ds_nodash", "logical_date", "macros",
        "params", "run_id", "task", "task_instance", "ti", "ts", "ts_nodash", "ts_nodash_with_tz",
    }
)  # fmt: skip
ONE_WORKER_XCOM = re.compile(r"xcom_pull\((?![^()]*map_indexes)")
DEFAULT_XCOM_BACKENDS = frozenset({"airflow.sdk.execution_time.xcom.BaseXCom", "airflow.models.xcom.BaseXCom", ""})


def template_for_triggerer(value: Any) -> str | None:
    """
    Return what the triggerer can render in place of a templated argument; None if it cannot.

    The output of one upstream task becomes a template that names the map index, since the triggerer
    cannot find out whether there is one.
    """
    if isinstance(value, XComArg):
        return _template_for_output(value)
    if not isinstance(value, str) or "{" not in value:
        return value if isinstance(value, str) else None
    return value if _is_for_triggerer(value) else None


def _template_for_output(output: XComArg) -> str | None:
    upstream = getattr(output, "operator", None)
    key = getattr(output, "key", None)
    if type(output).__name__ != "PlainXComArg" or upstream is None or upstream.is_mapped:
        return None
    return f"{{{{ ti.xcom_pull(task_ids={upstream.task_id!r}, key={key!r}, map_indexes=-1) }}}}"


def _is_for_triggerer(template: str) -> bool:
    from jinja2 import Environment, TemplateError, meta

    if ONE_WORKER_XCOM.search(template):
        return False
    try:
        parsed = Environment(autoescape=True).parse(template)
    except TemplateError:
        return False
    return meta.find_undeclared_variables(parsed) <= ROOTS_FOR_TRIGGERER


def why_not_start(sensor: BaseSensorOperator) -> str | None:
    """Say why a sensor cannot start in the triggerer; None if it can."""
    if not AIRFLOW_V_3_3_PLUS:
        return "this version of Airflow cannot (3.3 and later can)"
    if sensor.on_execute_callback or _is_hooked(sensor, "pre_execute"):
        return "it has something to run before it"
    if sensor.execution_timeout is not None:
        return "it has an execution_timeout"
    for name in sensor.template_fields:
        if template_for_triggerer(getattr(sensor, name)) is None:
            return f"its {name} can only be rendered on a worker"
    return None


def why_not_end(sensor: BaseSensorOperator, map_index: int) -> str | None:
    """Say why a sensor cannot end in the triggerer without losing anything; None if it can."""
    if not AIRFLOW_V_3_3_PLUS:
        return "this version of Airflow cannot (3.3 and later can)"
    if map_index >= 0:
        return "it is mapped"
    if sensor.outlets:
        return "it has outlets"
    if sensor.on_success_callback or sensor.on_skipped_callback or _is_hooked(sensor, "post_execute"):
        return "it has something to run after it"
    if getattr(sensor, "multiple_outputs", False):
        return "it has multiple_outputs"
    return None


def why_not_end_here() -> str | None:
    """Say why this triggerer must leave the end of a task to a worker; None if it need not."""
    if conf.get("core", "xcom_backend", fallback="") not in DEFAULT_XCOM_BACKENDS:
        return "there is an XCom backend of its own"
    if get_listener_manager().has_listeners:
        return "there are listeners"
    return None


def _is_hooked(sensor: BaseSensorOperator, name: str) -> bool:
    from airflow.providers.common.compat.sdk import BaseOperator

    overridden = getattr(type(sensor), name) is not getattr(BaseOperator, name)
    return overridden or getattr(sensor, f"_{name}_hook", None) is not None
