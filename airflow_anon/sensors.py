"""The sensors that wait: for a run, and for many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    conf,
)

from airflow_anon.links import AnonWorkflowRunLink

if TYPE_CHECKING:
    from uuid import UUID

    from airflow.providers.common.compat.sdk import Context, PokeReturnValue, XComArg
    from airflow.triggers.base import StartTriggerArgs

    from airflow_anon.hooks import AnonHook
    from airflow_anon.task.waits import Wait
    from airflow_anon.triggers import AnonWorkflowRunTrigger

DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)
UserInputCallback = Callable[["Context"], Any]


class _OfInstance(property):
    """A property that is None on the class, where Airflow looks for what mapped tasks have in common."""

    def __get__(self, sensor: Any, kind: type | None = None) -> Any:
        return None if sensor is None else super().__get__(sensor, kind)


class _WaitingSensor(BaseSensorOperator):
    """What the sensors have in common: all but what they wait for."""

    ids_parameter = "workflow_run_id"
    fail_fast = True
    stays_on_worker = False
    asked_to_start_in_triggerer = False  # until it is known

    if TYPE_CHECKING:

        @property
        def output(self) -> Any:
            """The XCom, for a task to take: for type checkers its value, which Airflow puts in its place."""

    def __init__(
        self,
        *,
        anon_conn_id: str,
        skip_on_no_action: bool,
        outage_tolerance: float | timedelta,
        on_awaiting_user_input_callback: UserInputCallback | Sequence[UserInputCallback] | None,
        user_input_timeout: float | timedelta | None,
        deferrable: bool,
        start_from_trigger: bool,
        end_from_trigger: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.anon_conn_id = anon_conn_id
        self.skip_on_no_action = skip_on_no_action
        self.outage_tolerance = seconds("outage_tolerance", outage_tolerance)
        self.on_awaiting_user_input_callback = on_awaiting_user_input_callback
        self.user_input_timeout = (
            None if user_input_timeout is None else seconds("user_input_timeout", user_input_timeout)
        )
        # None is what partial() makes of a wish that a mapped task cannot be granted.
        self.asked_to_start_in_triggerer = start_from_trigger is not False
        # Not end_from_trigger: where there are listeners, Airflow imports no DAG whose task has an attribute of that name.
        self.asked_to_end_in_triggerer = end_from_trigger
        self.deferrable = deferrable or self.asked_to_start_in_triggerer or end_from_trigger

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """
        Prepare a mapped sensor, as Airflow does.

        Airflow would make the context of a mapped task that is to start in the triggerer there, too, though it starts it
        on a worker: a Param without a valid value would end the triggerer.
        """
        if kwargs.get("start_from_trigger"):
            kwargs["start_from_trigger"] = None
        return super().partial(**kwargs)

    @_OfInstance
    def start_from_trigger(self) -> bool:
        """Whether Airflow is to start the task in the triggerer; asked when its DAG is complete."""
        # Not self._wait: Airflow runs a copy of this object.
        return self.asked_to_start_in_triggerer and self._new_wait().reason_to_start_on_worker() is None

    def _validate_start_from_trigger_kwargs(self) -> None:
        """Look for no callable among the trigger's arguments, before the DAG is complete: there is none."""

    @_OfInstance
    def start_trigger_args(self) -> StartTriggerArgs | None:
        """What the scheduler starts the trigger with."""
        return self._new_wait().start_trigger_args() if self.start_from_trigger else None

    def _new_wait(self) -> Wait:
        # Loaded when a wait begins: a DAG file that is only parsed does without.
        from airflow_anon.task.waits import Wait

        return Wait(self)

    @property
    def trigger_class(self) -> type[AnonWorkflowRunTrigger]:
        """What waits in the triggerer."""
        from airflow_anon.triggers import AnonWorkflowRunTrigger

        return AnonWorkflowRunTrigger

    def ids(self) -> list[str]:
        """Return the ids, checked."""
        raise NotImplementedError  # pragma: no cover  each sensor has its own

    def shaped(self, values: list[Any]) -> Any:
        """Return a value for each id in the shape that the sensor has for ids and XCom."""
        raise NotImplementedError  # pragma: no cover  each sensor has its own

    @cached_property
    def hook(self) -> AnonHook:
        """The hook for the sensor's connection."""
        from airflow_anon.hooks import AnonHook

        return AnonHook(self.anon_conn_id)

    @cached_property
    def _wait(self) -> Wait:
        return self._new_wait()

    def execute(self, context: Context) -> Any:
        """Wait as Airflow's sensors do, and close the connection to the API at the end."""
        self._wait.tell_why_on_worker(context)
        with self.hook, self._wait.count.to_its_end():
            try:
                return super().execute(context)
            except AirflowSensorTimeout as error:
                # Airflow forgets never_fail if the time is over after errors that silent_fail ignored.
                if not self.never_fail:
                    raise
                raise AirflowSkipException("Skipping due to never_fail is set to True.") from error

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll once; a deferrable sensor goes on in the triggerer if there is more to wait for."""
        return self._wait.poke(context)

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """Judge what the trigger saw, by the rules of a sensor that polls itself."""
        return self._wait.resume(context, event)

    def execute_failed(self, context: Context, error: str = "", traceback: list[str] | None = None) -> Any:
        """Poll once more after the trigger broke off, or was not run in time."""
        return self._wait.replace_trigger(context, error, traceback)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after the triggerer; what Airflow itself has to tell of a trigger is judged here, too."""
        if next_method == "__fail__":
            next_method = self.execute_failed.__name__
        with self._wait.count.to_its_end(is_resumed=True):
            return super().resume_execution(next_method, next_kwargs, context)

    @property
    def reschedule(self) -> bool:
        """Whether the sensor leaves its worker between two polls."""
        return self.mode == "reschedule" and not self.stays_on_worker

    def _get_next_poke_interval(self, *args: Any, **kwargs: Any) -> float:
        # The pause comes from the poll just taken, which knows of Retry-After, backoff and the deadline.
        return self._wait.seconds_to_next_poll()


class AnonWorkflowRunSensor(_WaitingSensor):
    """
    Waits until a workflow run is over.

    Passes when the run has completed, fails when it has failed, and hands the run's JSON on as the
    XCom ``return_value``. Airflow's own parameters (``poke_interval``, ``timeout``, ``mode``,
    ``exponential_backoff``, ``max_wait``, ``soft_fail``, ...) keep their meaning.

    :param workflow_run_id: the run's UUID. (templated)
    :param anon_conn_id: the Airflow connection to the API. (templated)
    :param skip_on_no_action: skip the task, instead of passing it, when the run completed without
        taking any action.
    :param outage_tolerance: how long the API may be unreachable, counted from the last good poll,
        before the wait gives up; seconds or a ``timedelta``.
    :param on_awaiting_user_input_callback: called with the task's context each time the run begins
        to wait for user input: a callable, an Airflow notifier, or a list of these. The run's JSON is
        in the context as ``workflow_run``.
    :param user_input_timeout: how long the run may wait for user input before the task fails; seconds
        or a ``timedelta``, without limit if None.
    :param deferrable: wait in the triggerer, without a worker; ``[operators] default_deferrable``
        if left out.
    :param start_from_trigger: start in the triggerer, without a worker; implies *deferrable*. Where
        Airflow cannot, the sensor starts on a worker and says so.
    :param end_from_trigger: end in the triggerer, without a worker, if the run ended well; implies
        *deferrable*. Where anything would be lost, the sensor ends on a worker and says so.
    """

    template_fields: Sequence[str] = ("workflow_run_id", "anon_conn_id")
    operator_extra_links = (AnonWorkflowRunLink(),)

    run_url: str | None = None
    kept_run_url: str | None = None

    # Each sensor names all parameters itself: editors and type checkers go by its signature alone.
    def __init__(
        self,
        *,
        workflow_run_id: str | UUID | XComArg,
        anon_conn_id: str = "anon_default",
        skip_on_no_action: bool = False,
        outage_tolerance: float | timedelta = 600.0,
        on_awaiting_user_input_callback: UserInputCallback | Sequence[UserInputCallback] | None = None,
        user_input_timeout: float | timedelta | None = None,
        deferrable: bool = DEFERRABLE,
        start_from_trigger: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            anon_conn_id=anon_conn_id,
            skip_on_no_action=skip_on_no_action,
            outage_tolerance=outage_tolerance,
            on_awaiting_user_input_callback=on_awaiting_user_input_callback,
            user_input_timeout=user_input_timeout,
            deferrable=deferrable,
            start_from_trigger=start_from_trigger,
            end_from_trigger=end_from_trigger,
            **kwargs,
        )
        self.workflow_run_id = workflow_run_id

    def ids(self) -> list[str]:
        """Return the id, checked."""
        from airflow_anon.core.ids import normalise_id

        return [normalise_id(self.workflow_run_id)]

    def shaped(self, values: list[Any]) -> Any:
        """Return the value for the one id."""
        return values[0]


class AnonWorkflowRunsSensor(_WaitingSensor):
    """
    Waits until many workflow runs are over, in one task.

    The XCom ``return_value`` is the list of the runs' JSON, in the order of the ids. All other
    parameters are those of :class:`AnonWorkflowRunSensor` and hold for each run;
    *on_awaiting_user_input_callback* is called once for each run that begins to wait for user input.

    :param workflow_run_ids: the runs' UUIDs: a list, the output of a task that returns one, or a
        template that renders to one. No ids are no wait: the task passes with ``[]``. (templated)
    :param anon_conn_id: the Airflow connection to the API. (templated)
    :param fail_fast: end the wait with the first run that failed; otherwise wait for all, and then
        name all that failed.
    :param skip_on_no_action: skip the task when all runs completed without taking any action.
    """

    template_fields: Sequence[str] = ("workflow_run_ids", "anon_conn_id")
    ids_parameter = "workflow_run_ids"

    def __init__(
        self,
        *,
        workflow_run_ids: Sequence[str | UUID | XComArg] | str | XComArg,
        fail_fast: bool = True,
        anon_conn_id: str = "anon_default",
        skip_on_no_action: bool = False,
        outage_tolerance: float | timedelta = 600.0,
        on_awaiting_user_input_callback: UserInputCallback | Sequence[UserInputCallback] | None = None,
        user_input_timeout: float | timedelta | None = None,
        deferrable: bool = DEFERRABLE,
        start_from_trigger: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            anon_conn_id=anon_conn_id,
            skip_on_no_action=skip_on_no_action,
            outage_tolerance=outage_tolerance,
            on_awaiting_user_input_callback=on_awaiting_user_input_callback,
            user_input_timeout=user_input_timeout,
            deferrable=deferrable,
            start_from_trigger=start_from_trigger,
            end_from_trigger=end_from_trigger,
            **kwargs,
        )
        self.workflow_run_ids = workflow_run_ids
        self.fail_fast = fail_fast

    def ids(self) -> list[str]:
        """Return the ids, checked."""
        from airflow_anon.core.ids import read_ids

        return read_ids(self.workflow_run_ids)

    def shaped(self, values: list[Any]) -> list[Any]:
        """Return the values, in the order of the ids."""
        return values


def seconds(name: str, value: object) -> float:
    """
    Read a parameter that is a ``timedelta`` or a number of seconds.

    :raises ValueError: it is neither, or negative.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < float("inf"):
        raise ValueError(f"{name} must be a timedelta, or a number of seconds of at least 0, not {value!r}")
    return float(number)
