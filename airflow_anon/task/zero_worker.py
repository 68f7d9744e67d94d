"""Whether a sensor can start, and end, in the triggerer without any worker, and why not if it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import XComArg, conf, get_listener_manager
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_anon.core.ids import plain

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
# What a template may ask these for: plain facts.
FACTS = {
    "dag": frozenset({"dag_id"}),
    "macros": frozenset({"datetime", "dateutil", "ds_add", "ds_format", "json", "timedelta", "uuid"}),
    "task": frozenset({"owner", "task_id"}),
    "ti": frozenset({"dag_id", "map_index", "run_id", "task_id", "try_number"}),
}
FACTS["task_instance"] = FACTS["ti"]
AIRFLOW_FILTERS = frozenset({"ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz"})
DEFAULT_XCOM_BACKENDS = frozenset(
    {"airflow.sdk.execution_time.xcom.BaseXCom", "airflow.models.xcom.BaseXCom", ""}
)


def template_for_triggerer(value: Any) -> str | list[str] | None:
    """
    Return what the triggerer can render in place of a templated argument, text or a list of it; None if it cannot.

    The output of one upstream task becomes a template that names the map index, since the triggerer
    cannot find out whether there is one.
    """
    value = plain(value)
    if isinstance(value, XComArg):
        return _template_for_output(value)
    if isinstance(value, list):
        items = [item for item in map(template_for_triggerer, value) if isinstance(item, str)]
        return items if len(items) == len(value) else None
    if not isinstance(value, str) or "{" not in value:
        return value if isinstance(value, str) else None
    return value if _is_for_triggerer(value) else None


def _template_for_output(output: XComArg) -> str | None:
    upstream = getattr(output, "operator", None)
    key = getattr(output, "key", None)
    if type(output).__name__ != "PlainXComArg" or upstream is None or _is_mapped(upstream):
        return None
    return f"{{{{ ti.xcom_pull(task_ids={upstream.task_id!r}, key={key!r}, map_indexes=-1) }}}}"


def _is_for_triggerer(template: str) -> bool:
    from jinja2 import Environment, TemplateError, meta, nodes

    environment = Environment(autoescape=True)
    environment.filters.update(dict.fromkeys(AIRFLOW_FILTERS, str))
    try:
        parsed = environment.parse(template)
        used = meta.find_undeclared_variables(parsed)
    except TemplateError:  # a filter of the DAG's own among others
        return False
    owners: list[Any] = [call.node for call in parsed.find_all(nodes.Call) if _names_its_map_index(call)]
    owners += [get for get in parsed.find_all(nodes.Getattr) if get.attr in FACTS.get(_name(get.node), ())]
    fine = {id(owner.node) for owner in owners}
    return (
        used <= ROOTS_FOR_TRIGGERER
        and all(id(item) in fine for item in parsed.find_all(nodes.Name) if item.name in FACTS)
        and not any(meta.find_referenced_templates(parsed))
    )


def _name(node: Any) -> str:
    return getattr(node, "name", "")


def _names_its_map_index(call: Any) -> bool:
    """Say whether a call is an ``xcom_pull`` that need not find out which map index to take."""
    from jinja2.nodes import Impossible

    if getattr(call.node, "attr", "") != "xcom_pull" or _name(call.node.node) not in {"ti", "task_instance"}:
        return False
    try:
        return any(type(item.value.as_const()) is int for item in call.kwargs if item.key == "map_indexes")
    except Impossible:
        return False


def _is_mapped(operator: Any) -> bool:
    return operator.is_mapped or operator.get_closest_mapped_task_group() is not None


def reason_to_start_on_worker(sensor: BaseSensorOperator) -> str | None:
    """
    Say why a sensor of a finished DAG cannot start in the triggerer; None if it can.

    Airflow makes the context of such a task in the loop that serves all triggers: what raises there ends the
    triggerer, and what has to ask for something waits for ever.
    """
    if not AIRFLOW_V_3_3_PLUS:  # pragma: no cover  tested on those
        return "this version of Airflow cannot (3.3 and later can)"
    obstacles = {
        "it has something to run before it": sensor.on_execute_callback or _is_hooked(sensor, "pre_execute"),
        "it has an execution_timeout": sensor.execution_timeout is not None,
        "it is mapped": _is_mapped(sensor),
        "it has inlets": sensor.inlets,
        "triggers have queues": conf.getboolean("triggerer", "queues_enabled", fallback=False),
        "a Param has no valid value without the conf of a run": not _has_valid_params(sensor),
    }
    if sensor.has_dag():
        timetable = type(getattr(sensor.dag, "timetable", None)).__module__
        obstacles |= {
            "its DAG has settings of its own for Jinja": sensor.dag.jinja_environment_kwargs,
            "its DAG has a timetable of its own": timetable.partition(".")[0] not in {"airflow", "builtins"},
        }
    for name in sensor.template_fields:
        is_rendered = template_for_triggerer(getattr(sensor, name)) is not None
        obstacles[f"its {name} can only be rendered on a worker"] = not is_rendered
    return next((obstacle for obstacle, is_there in obstacles.items() if is_there), None)


def _has_valid_params(sensor: BaseSensorOperator) -> bool:
    owners: list[Any] = [sensor, sensor.dag] if sensor.has_dag() else [sensor]
    try:
        for owner in owners:
            owner.params.validate()
    except ValueError:
        return False
    return True


def reason_to_end_on_worker(sensor: BaseSensorOperator) -> str | None:
    """Say why a sensor of a finished DAG cannot end in the triggerer without losing anything; None if it can."""
    if not AIRFLOW_V_3_3_PLUS:  # pragma: no cover  tested on those
        return "this version of Airflow cannot (3.3 and later can)"
    has_callback = sensor.on_success_callback or sensor.on_skipped_callback
    obstacles = {
        "it has outlets": sensor.outlets,
        "it has something to run after it": has_callback or _is_hooked(sensor, "post_execute"),
        "it has multiple_outputs": getattr(sensor, "multiple_outputs", False),
        "its map index has a name of its own": getattr(sensor, "map_index_template", None),
        "its XCom is the result of its DAG": getattr(sensor, "returns_dag_result", False),
        "a task is mapped over its XCom": sensor.has_dag() and any(sensor.iter_mapped_dependants()),
    }
    return next((obstacle for obstacle, is_there in obstacles.items() if is_there), None)


def reason_to_end_elsewhere(task_instance: Any) -> str | None:
    """Say why this triggerer must leave the end of a task to a worker; None if it need not."""
    if task_instance is None:
        return "this is no triggerer, but dag.test()"
    if conf.get("core", "xcom_backend", fallback="") not in DEFAULT_XCOM_BACKENDS:
        return "there is an XCom backend of its own"
    if get_listener_manager().has_listeners:
        return "there are listeners"
    return None


def _is_hooked(sensor: BaseSensorOperator, name: str) -> bool:
    from airflow.providers.common.compat.sdk import BaseOperator

    overridden = getattr(type(sensor), name) is not getattr(BaseOperator, name)
    return overridden or getattr(sensor, f"_{name}_hook", None) is not None
