"""When a sensor starts and ends without a worker, and what it does where that would lose something."""

from __future__ import annotations

import json
import socket
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator, TaskDeferred, task
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_3_PLUS
from carry_out import TaskInstance, TaskInstance3, carry_out
from samples import RUN_ID

from airflow_anon.exceptions import AnonUnavailableError
from airflow_anon.sensors import AnonWorkflowRunSensor, AnonWorkflowRunsSensor
from airflow_anon.task import zero_worker
from airflow_anon.task.zero_worker import template_for_triggerer

only_new = pytest.mark.skipif(
    not AIRFLOW_V_3_3_PLUS, reason="Airflow 3.3 and later can start a task in the triggerer"
)
START = datetime(2025, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def dag():
    with DAG("waits", schedule=None, start_date=START) as dag:
        yield dag


@pytest.fixture
def said(caplog, capsys):
    """How often something was said; what writes the log to where differs from one Airflow to the next."""
    return lambda text: max(caplog.text.count(text), capsys.readouterr().out.count(text))


def sensor_with(workflow_run_id=RUN_ID, **options):
    return AnonWorkflowRunSensor(
        task_id="wait", workflow_run_id=workflow_run_id, **{"start_from_trigger": True, **options}
    )


def starts_in_triggerer(sensor):
    return sensor.start_from_trigger is True and sensor.start_trigger_args is not None


class Upstream(BaseOperator):
    def execute(self, context):
        return RUN_ID


def context_of(clock, map_index=-1):
    kind = TaskInstance3 if AIRFLOW_V_3_0_PLUS else TaskInstance
    instance = kind(clock, None, start_date=clock.utcnow(), map_index=map_index)
    return {"ti": instance, "task_instance": instance}


# Templates


FOR_TRIGGERER = [
    RUN_ID,
    "{{ params.workflow_run_id }}",
    "{{ params['workflow_run_id'] | trim }}",
    "{{ dag_run.conf['workflow_run_id'] }}",
    "{{ dag_run.conf.get('workflow_run_id', '').strip() }}",
    "{{ dag_run.run_id }}",
    "{{ ds }}{{ ts_nodash | upper }}",
    "{{ logical_date | ds_nodash }}",
    "{{ data_interval_start.strftime('%Y') }}",
    "{{ macros.ds_add(ds, 1) }}",
    "{{ ti.run_id }}{{ task.task_id }}{{ dag.dag_id }}{{ task_instance.try_number }}",
    "{{ ti.xcom_pull(task_ids='up', map_indexes=-1) }}",
    "{{ task_instance.xcom_pull(task_ids='up', key='id', map_indexes=-1)['id'] | lower }}",
    "{{ ti.xcom_pull(task_ids=params.upstream, key=params.get('key'), map_indexes=0) }}",
    "{% if params.x %}{{ params.x }}{% else %}{{ ds }}{% endif %}",
    "{% set id = params.id %}{{ id }}",
    "{no template}",
]
FOR_WORKER = [
    "{{ ti.xcom_pull(task_ids='up') }}",
    "{{ ti.xcom_pull (task_ids='up') }}",
    "{{ ti.xcom_pull('map_indexes') }}",
    "{{ ti.xcom_pull(task_ids='up', key='map_indexes') }}",
    "{{ ti.xcom_pull(task_ids='up', map_indexes=None) }}",
    "{{ ti.xcom_pull(task_ids='up', map_indexes=params.index) }}",
    "{{ ti.xcom_pull(task_ids='up', map_indexes=-1) }}{{ ti.xcom_pull(task_ids='up') }}",
    "{{ ti['xcom_pull'](task_ids='up') }}",
    "{{ ti | attr('xcom_pull') }}",
    "{% set pull = ti.xcom_pull %}{{ pull(task_ids='up') }}",
    "{% set t = ti %}{{ t.xcom_pull(task_ids='up') }}",
    "{{ task_instance.xcom_pull('up') }}",
    "{{ ti.get_previous_dagrun().run_id }}",
    "{{ ti.get_first_reschedule_date(0) }}",
    "{{ var.value.workflow_run_id }}",
    "{{ var.json.x.id }}",
    "{{ conn.anon_default.host }}",
    "{{ macros.my_plugin.newest_run() }}",
    "{{ my_macro() }}",
    "{{ my_constant }}",
    "{{ ds | my_filter }}",
    "{{ prev_start_date_success }}",
    "{{ triggering_asset_events }}",
    "{{ inlet_events }}",
    "{{ unfinished",
    "{% import 'x' as x %}{{ x.y }}",
    None,
    7,
]


@pytest.mark.parametrize("template", FOR_TRIGGERER)
def test_what_the_triggerer_can_render_is_left_to_it(template):
    assert template_for_triggerer(template) == template


@pytest.mark.parametrize("template", FOR_WORKER)
def test_what_only_a_worker_can_render_is_left_to_a_worker(template):
    assert template_for_triggerer(template) is None


@only_new
def test_the_output_of_a_task_becomes_a_template_that_the_triggerer_can_render(dag):
    up = Upstream(task_id="up")

    template = template_for_triggerer(up.output)

    assert template == "{{ ti.xcom_pull(task_ids='up', key='return_value', map_indexes=-1) }}"
    assert template_for_triggerer(template) == template


@only_new
def test_one_of_several_outputs_keeps_its_key(dag):
    @task(multiple_outputs=True)
    def up() -> dict:
        return {"id": RUN_ID}

    assert template_for_triggerer(up()["id"]) == "{{ ti.xcom_pull(task_ids='up', key='id', map_indexes=-1) }}"


@only_new
def test_outputs_that_take_a_worker_to_find_are_left_to_it(dag):
    @task
    def up(number):
        return RUN_ID

    mapped = up.expand(number=[1, 2])
    single = up.override(task_id="single")(1)

    assert template_for_triggerer(mapped) is None
    assert template_for_triggerer(mapped["id"]) is None
    assert template_for_triggerer(single.map(lambda value: value)) is None
    assert template_for_triggerer(single.zip(mapped)) is None


# Where a sensor starts


@pytest.mark.parametrize(
    "said_of", ["starts on a worker, not in the triggerer", "ends on a worker, not in the triggerer"]
)
def test_an_older_airflow_starts_and_ends_on_a_worker_and_says_so_once(api, said, said_of, monkeypatch):
    monkeypatch.setattr(zero_worker, "AIRFLOW_V_3_3_PLUS", False)
    simulator, clock = api
    run_id = simulator.create_run("PENDING 40s, COMPLETED")

    story = carry_out(lambda: sensor_with(run_id, end_from_trigger=True), clock)

    assert (story.state, story.starts, story.triggers) == ("success", 2, 1)
    assert said(f"{said_of}: this version of Airflow cannot") == 1


@only_new
@pytest.mark.parametrize("workflow_run_id", FOR_TRIGGERER[:8])
def test_a_sensor_starts_in_the_triggerer_with_what_it_was_given(workflow_run_id):
    sensor = sensor_with(
        workflow_run_id,
        anon_conn_id="{{ params.conn }}",
        timeout=timedelta(hours=1),
        poke_interval=7,
        outage_tolerance=77,
        user_input_timeout=777,
        exponential_backoff=True,
        max_wait=70,
        on_awaiting_user_input_callback=print,
        skip_on_no_action=True,
        end_from_trigger=True,
        do_xcom_push=False,
    )

    assert starts_in_triggerer(sensor)
    arguments = sensor.start_trigger_args.trigger_kwargs
    assert json.loads(json.dumps(arguments)) == arguments
    assert arguments["workflow_run_id"] == workflow_run_id
    assert arguments["anon_conn_id"] == "{{ params.conn }}"
    assert arguments["timeout"] == 3600
    assert arguments["started_at"] is arguments["deadline"] is arguments["seen_at"] is None
    assert (arguments["poke_interval"], arguments["max_wait"], arguments["outage_tolerance"]) == (7, 70, 77)
    assert arguments["user_input_timeout"] == 777
    assert all(
        arguments[name]
        for name in ("exponential_backoff", "asks_for_input", "skip_on_no_action", "end_from_trigger")
    )
    assert arguments["do_xcom_push"] is False
    assert sensor.start_trigger_args.timeout > timedelta(hours=1)
    assert sensor.start_trigger_args.next_method == "execute_complete"


@only_new
@pytest.mark.parametrize("timeout", [timedelta.max, 1e12])
def test_a_wait_for_ever_has_a_limit_that_airflow_can_add_to_the_time(timeout):
    sensor = sensor_with(timeout=timeout)

    assert datetime.now(tz=timezone.utc) + sensor.start_trigger_args.timeout
    assert sensor.start_trigger_args.trigger_kwargs["timeout"] is None


def unwanted(context):
    """Stand for something that a user wants to run."""


OBSTACLES_TO_A_START = {
    "on_execute_callback": {"on_execute_callback": unwanted},
    "pre_execute": {"pre_execute": unwanted},
    "execution_timeout": {"execution_timeout": timedelta(hours=1)},
    "inlets": {"inlets": ["something"]},
    "workflow_run_id": {"workflow_run_id": "{{ ti.xcom_pull('up') }}"},
    "anon_conn_id": {"anon_conn_id": "{{ var.value.conn }}"},
}


@only_new
@pytest.mark.parametrize("options", OBSTACLES_TO_A_START.values(), ids=OBSTACLES_TO_A_START)
def test_a_sensor_with_something_that_takes_a_worker_starts_on_one(options):
    sensor = sensor_with(**options)

    assert not starts_in_triggerer(sensor)
    assert sensor.deferrable


@only_new
def test_a_sensor_whose_start_takes_a_worker_says_so_once(api, said):
    simulator, clock = api
    run_id = simulator.create_run("PENDING 40s, COMPLETED")

    story = carry_out(lambda: sensor_with(run_id, execution_timeout=timedelta(hours=1)), clock)

    assert (story.state, story.starts, story.triggers) == ("success", 2, 1)
    assert said("starts on a worker, not in the triggerer: it has an execution_timeout") == 1


@only_new
def test_a_callback_from_the_defaults_of_a_dag_counts():
    with DAG("defaults", schedule=None, start_date=START, default_args={"on_execute_callback": unwanted}):
        assert not starts_in_triggerer(sensor_with())


@only_new
@pytest.mark.parametrize("default", [{}, {"default": None}, {"default": 7}], ids=["none", "null", "wrong"])
@pytest.mark.parametrize("of", ["its DAG", "itself"])
def test_a_param_without_a_valid_value_takes_a_worker(default, of):
    from airflow.sdk import Param

    params = {"workflow_run_id": Param(**default, type="string")}
    of_dag = {"params": params} if of == "its DAG" else {}

    with DAG("required", schedule=None, start_date=START, **of_dag):
        sensor = sensor_with("{{ params.workflow_run_id }}", **({} if of_dag else {"params": params}))

    assert not starts_in_triggerer(sensor)


@only_new
def test_params_with_valid_values_take_none():
    from airflow.sdk import Param

    with DAG("optional", schedule=None, start_date=START, params={"x": 1, "id": Param("", type="string")}):
        assert starts_in_triggerer(sensor_with("{{ params.id }}"))


@only_new
def test_what_takes_a_worker_is_seen_when_the_dag_is_complete():
    from airflow.sdk import Param

    sensor = sensor_with(end_from_trigger=True)
    assert starts_in_triggerer(sensor)

    DAG("later", schedule=None, start_date=START, params={"id": Param(type="string")}).add_task(sensor)

    assert not starts_in_triggerer(sensor)


@only_new
def test_queues_of_triggers_take_a_worker(monkeypatch):
    monkeypatch.setenv("AIRFLOW__TRIGGERER__QUEUES_ENABLED", "True")

    assert not starts_in_triggerer(sensor_with())


@only_new
def test_a_timetable_of_ones_own_takes_a_worker():
    from airflow.timetables.simple import NullTimetable

    class MyTimetable(NullTimetable):
        __module__ = "my_plugin"

    with DAG("timetable", schedule=MyTimetable(), start_date=START):
        assert not starts_in_triggerer(sensor_with())


@only_new
def test_a_dag_with_a_schedule_of_airflows_takes_none():
    with DAG("daily", schedule="@daily", start_date=START):
        assert starts_in_triggerer(sensor_with())


@only_new
def test_settings_of_a_dag_for_its_templates_take_a_worker():
    with DAG(
        "jinja", schedule=None, start_date=START, jinja_environment_kwargs={"variable_start_string": "<<"}
    ):
        assert not starts_in_triggerer(sensor_with("<< params.id >>"))


@only_new
def test_a_subclass_with_something_to_run_before_starts_on_a_worker():
    class Prepared(AnonWorkflowRunSensor):
        def pre_execute(self, context):
            """Do something before."""

    assert not starts_in_triggerer(Prepared(task_id="wait", workflow_run_id=RUN_ID, start_from_trigger=True))


@only_new
def test_a_sensor_in_a_mapped_group_starts_on_a_worker(dag):
    from airflow.sdk import task_group

    sensors = []

    @task_group
    def waits(number):
        up = Upstream(task_id="up")
        sensors.append(sensor_with(up.output))
        assert template_for_triggerer(up.output) is None

    waits.expand(number=[1, 2])

    assert [starts_in_triggerer(sensor) for sensor in sensors] == [False]


@only_new
def test_a_sensor_after_a_task_stays_downstream_of_it(dag):
    up = Upstream(task_id="up")
    sensor = sensor_with(up.output)

    assert starts_in_triggerer(sensor)
    assert sensor.upstream_task_ids == {"up"}
    assert sensor.start_trigger_args.trigger_kwargs["workflow_run_id"] == template_for_triggerer(up.output)


@only_new
def test_what_the_scheduler_needs_survives_the_serialisation_of_the_dag(dag):
    from airflow.serialization.serialized_objects import DagSerialization

    up = Upstream(task_id="up")
    sensor = sensor_with(up.output, timeout=600, end_from_trigger=True)

    again = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag)))).get_task("wait")

    assert again.start_from_trigger is True
    assert again.start_trigger_args.trigger_cls == "airflow_anon.triggers.AnonWorkflowRunTrigger"
    assert again.start_trigger_args.next_method == sensor.start_trigger_args.next_method
    assert again.start_trigger_args.timeout == sensor.start_trigger_args.timeout
    kwargs = again.start_trigger_args.trigger_kwargs
    assert kwargs.get("__var", kwargs) == sensor.start_trigger_args.trigger_kwargs


def test_mapped_sensors_start_on_workers_and_end_in_the_triggerer(dag, api, said):
    simulator, clock = api
    simulator.create_run("PENDING 40s, COMPLETED", RUN_ID)
    mapped = AnonWorkflowRunSensor.partial(
        task_id="wait", start_from_trigger=True, end_from_trigger=True
    ).expand(workflow_run_id=[RUN_ID])

    with pytest.raises(TaskDeferred) as caught:
        mapped.unmap({"workflow_run_id": RUN_ID}).execute(context_of(clock, map_index=0))

    assert caught.value.trigger.end_from_trigger is AIRFLOW_V_3_3_PLUS
    assert said("starts on a worker, not in the triggerer: ") == 1


@only_new
@pytest.mark.parametrize("asked", [False, True])
def test_airflow_does_not_hear_of_a_start_that_a_mapped_task_cannot_have(dag, asked):
    from airflow.serialization.serialized_objects import DagSerialization

    mapped = AnonWorkflowRunSensor.partial(task_id="wait", start_from_trigger=asked)
    mapped.expand(workflow_run_id=[RUN_ID])

    again = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag)))).get_task("wait")

    assert not again.start_from_trigger
    assert not again.start_trigger_args


# Where it ends


OBSTACLES_TO_AN_END = {
    "outlets": lambda: {"outlets": [asset()]},
    "on_success_callback": lambda: {"on_success_callback": unwanted},
    "on_skipped_callback": lambda: {"on_skipped_callback": unwanted},
    "post_execute": lambda: {"post_execute": lambda context, result: None},
    "map_index_template": lambda: {"map_index_template": "{{ task.task_id }}"},
}


def asset():
    from airflow.sdk import Asset

    return Asset("runs")


@only_new
@pytest.mark.parametrize("options", OBSTACLES_TO_AN_END.values(), ids=OBSTACLES_TO_AN_END)
def test_a_sensor_whose_end_would_lose_something_ends_on_a_worker(options, api, said):
    simulator, clock = api
    run_id = simulator.create_run("PENDING 40s, COMPLETED")

    story = carry_out(lambda: sensor_with(run_id, end_from_trigger=True, **options()), clock)

    assert (story.state, story.starts, story.triggers) == ("success", 1, 1)
    assert story.xcom == simulator.run(run_id)
    assert said("The task ends on a worker, not in the triggerer: ") == 1


@only_new
def test_an_xcom_backend_of_its_own_takes_a_worker(api, monkeypatch, said):
    simulator, clock = api
    monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", "my_company.xcoms.Backend")
    run_id = simulator.create_run("PENDING 40s, COMPLETED")

    story = carry_out(lambda: sensor_with(run_id, end_from_trigger=True), clock)

    assert (story.state, story.starts, story.triggers) == ("success", 1, 1)
    assert said("there is an XCom backend of its own") == 1


@only_new
def test_listeners_take_a_worker(api, said):
    from airflow.sdk.listener import get_listener_manager

    class Listener:
        """Hears of every task."""

    simulator, clock = api
    run_id = simulator.create_run("PENDING 40s, COMPLETED")
    manager, listener = get_listener_manager(), Listener()
    manager.add_listener(listener)
    try:
        story = carry_out(lambda: sensor_with(run_id, end_from_trigger=True), clock)
    finally:
        manager.clear()

    assert (story.state, story.starts, story.triggers) == ("success", 1, 1)
    assert said("there are listeners") == 1


@only_new
@pytest.mark.parametrize("do_xcom_push", [True, False])
def test_a_wait_without_any_worker_leaves_the_same_xcom(api, do_xcom_push):
    simulator, clock = api
    run_id = simulator.create_run("PENDING 40s, COMPLETED")

    story = carry_out(lambda: sensor_with(run_id, end_from_trigger=True, do_xcom_push=do_xcom_push), clock)

    assert (story.state, story.starts, story.triggers) == ("success", 0, 1)
    assert story.xcom == (simulator.run(run_id) if do_xcom_push else None)


@only_new
def test_a_wait_that_starts_without_a_worker_has_its_link_from_the_triggerer(api):
    simulator, clock = api
    run_id = simulator.create_run("PENDING 40s, COMPLETED")

    story = carry_out(lambda: sensor_with(run_id, end_from_trigger=True), clock)

    assert (story.state, story.starts) == ("success", 0)
    assert [(link.where, link.url) for link in story.links] == [
        ("triggerer", f"{simulator.url}/api/v2/workflow-runs/{run_id}")
    ]


@only_new
def test_a_wait_whose_run_is_not_seen_in_the_triggerer_has_its_link_from_airflow(api):
    simulator, clock = api
    run_id = simulator.create_run("PENDING 40s, COMPLETED")
    simulator.start_outage("503")

    story = carry_out(lambda: sensor_with(run_id, timeout=20), clock)

    assert (story.state, story.starts) == ("failed", 1)
    assert [(link.where, link.url) for link in story.links] == [
        ("airflow", f"{simulator.url}/api/v2/workflow-runs/{run_id}")
    ]


# Another triggerer takes it on


@only_new
@pytest.mark.parametrize("fault", ["503 x12", "401 x12"])
def test_a_wait_that_is_taken_on_in_an_outage_has_the_patience_of_one_whose_run_was_seen(api, fault):
    simulator, clock = api
    run_id = simulator.create_run("PENDING 10m, COMPLETED")
    simulator.add_faults(fault, run_id)

    story = carry_out(
        lambda: sensor_with(run_id, poke_interval=30, end_from_trigger=True), clock, begun_before=90
    )

    assert (story.state, story.starts) == ("success", 0)


@only_new
def test_a_wait_that_is_taken_on_in_its_first_minute_has_as_little_patience_as_any(api):
    simulator, clock = api
    run_id = simulator.create_run("PENDING 10m, COMPLETED")
    simulator.start_outage("503")
    start = clock.time()

    story = carry_out(lambda: sensor_with(run_id), clock, begun_before=30)

    assert isinstance(story.error, AnonUnavailableError)
    assert "No answer: " in str(story.error)
    assert clock.time() - start < 90


@only_new
def test_many_runs_that_are_taken_on_in_an_outage_have_that_patience_too(api):
    simulator, clock = api
    run_ids = [simulator.create_run("PENDING 10m, COMPLETED") for _ in range(3)]
    simulator.outage(300, "503")

    def make_task():
        return AnonWorkflowRunsSensor(
            task_id="wait", workflow_run_ids=run_ids, start_from_trigger=True, end_from_trigger=True
        )

    story = carry_out(make_task, clock, begun_before=90)

    assert (story.state, story.starts) == ("success", 0)


# Parsing


@pytest.mark.parametrize("start_from_trigger", [False, True])
def test_a_dag_file_is_parsed_without_any_io(dag, monkeypatch, start_from_trigger):
    def refuse(*_, **__):
        raise AssertionError("parsing a DAG file reaches out")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr("airflow_anon.hooks.AnonHook.get_connection", refuse)
    up = Upstream(task_id="up")

    for number, value in enumerate([up.output, "{{ params.id }}", RUN_ID, "no id", "", None]):
        AnonWorkflowRunSensor(
            task_id=f"wait_{number}",
            workflow_run_id=value,
            anon_conn_id="{{ params.conn }}",
            start_from_trigger=start_from_trigger,
            end_from_trigger=start_from_trigger,
        )

    assert len(dag.tasks) == 7


def test_both_shortcuts_imply_a_deferrable_sensor():
    assert sensor_with(deferrable=False).deferrable
    assert sensor_with(start_from_trigger=False, end_from_trigger=True, deferrable=False).deferrable
    assert not sensor_with(start_from_trigger=False, deferrable=False).deferrable
