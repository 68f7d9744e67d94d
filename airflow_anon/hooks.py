"""The Airflow side of the API: a connection goes in, workflow runs come out."""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_anon import get_provider_info
from airflow_anon.client.endpoint import Endpoint
from airflow_anon.core.group import WaitGroup
from airflow_anon.core.ids import normalise_id
from airflow_anon.core.policy import WaitPolicy
from airflow_anon.core.polling import fetch_run, wait_for_run
from airflow_anon.core.probe import probe
from airflow_anon.core.sanitize import fit_text
from airflow_anon.exceptions import AnonConfigurationError, AnonError, AnonUnreadableConnectionError
from airflow_anon.task.metrics import counted_wait, poll_counter
from airflow_anon.task.result import result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from uuid import UUID

    from airflow.providers.common.compat.sdk import Connection
    from typing_extensions import Self

    from airflow_anon.client.requests_client import Client
    from airflow_anon.client.shared_client import SharedClient
    from airflow_anon.core.flow import Flow, LogLine, NoResponse, Request, Response
    from airflow_anon.core.polling import PollResult
    from airflow_anon.runs import WorkflowRun

T = TypeVar("T")
K = TypeVar("K")

A_WEEK = 7 * 24 * 3600.0


class AnonHook(BaseHook):
    """
    Polls workflow runs, and waits for them.

    It keeps one TCP connection alive between polls: use it as a context manager, or call
    :meth:`close`, to close it.

    :param anon_conn_id: the Airflow connection to the API.
    """

    conn_name_attr = "anon_conn_id"
    default_conn_name = "anon_default"
    conn_type = "anon"
    hook_name = "Anon"

    form: ClassVar[dict[str, Any]] = get_provider_info()["connection-types"][0]

    def __init__(self, anon_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.anon_conn_id = anon_conn_id
        self._client: Client | None = None

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the form's labels for Airflow before 3.2; later ones read ``get_provider_info``."""
        return {key.replace("-", "_"): value for key, value in cls.form["ui-field-behaviour"].items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:  # pragma: no cover  tested before Airflow 3.2
        """Return the form's further fields for Airflow before 3.2."""
        from flask_appbuilder.fieldwidgets import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
            BS3TextFieldWidget,
        )
        from wtforms import StringField  # type: ignore[import-untyped, import-not-found, unused-ignore]

        return {
            name: StringField(field["label"], description=field["description"], widget=BS3TextFieldWidget())
            for name, field in cls.form["conn-fields"].items()
        }

    def get_workflow_run(self, workflow_run_id: str | UUID) -> WorkflowRun:
        """
        Poll a run once, whatever its status; short disturbances are ridden out.

        :param workflow_run_id: the run's UUID.
        :raises AnonError: there is no such run, or no answer for a minute.
        """
        return self.drive(fetch_run(normalise_id(workflow_run_id)))

    def wait_for_workflow_run(
        self,
        workflow_run_id: str | UUID,
        *,
        poke_interval: float = 60.0,
        timeout: float = A_WEEK,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        outage_tolerance: float = 600.0,
        user_input_timeout: float | None = None,
    ) -> WorkflowRun:
        """
        Block until a run is over and return it if it ended well; all times are in seconds.

        The parameters mean what they mean for
        :class:`~airflow_anon.sensors.AnonWorkflowRunSensor`.

        :raises AnonWorkflowRunFailedError: the run failed.
        :raises AnonWaitTimeoutError: *timeout* or *user_input_timeout* is over.
        :raises AnonError: the wait could not go on.
        """
        group = self._group(
            workflow_run_id,
            timeout,
            poke_interval=poke_interval,
            exponential_backoff=exponential_backoff,
            max_wait=max_wait,
            outage_tolerance=outage_tolerance,
            user_input_timeout=user_input_timeout,
        )
        with counted_wait(self.anon_conn_id, group) as count:
            (state,) = group.members.values()
            count.polled = self.drive(wait_for_run(group.policy, state))
            return self._concluded(group, count.polled)

    async def aget_workflow_run(self, workflow_run_id: str | UUID) -> WorkflowRun:
        """Poll a run once, like :meth:`get_workflow_run`, without blocking the event loop."""
        return await self.adrive(fetch_run(normalise_id(workflow_run_id)))

    async def await_workflow_run(
        self,
        workflow_run_id: str | UUID,
        *,
        poke_interval: float = 60.0,
        timeout: float = A_WEEK,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        outage_tolerance: float = 600.0,
        user_input_timeout: float | None = None,
    ) -> WorkflowRun:
        """Wait for a run like :meth:`wait_for_workflow_run`, without blocking the event loop."""
        group = self._group(
            workflow_run_id,
            timeout,
            poke_interval=poke_interval,
            exponential_backoff=exponential_backoff,
            max_wait=max_wait,
            outage_tolerance=outage_tolerance,
            user_input_timeout=user_input_timeout,
        )
        with counted_wait(self.anon_conn_id, group) as count:
            (state,) = group.members.values()
            count.polled = await self.adrive(wait_for_run(group.policy, state))
            return self._concluded(group, count.polled)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the API for a run that does not exist, and say what the answer tells about the connection."""
        try:
            with self:
                return self.drive(probe())
        except AnonError as error:
            # Airflow's Test button tests a copy of the connection, under a random name.
            return False, str(error).removeprefix(f"Connection {self.anon_conn_id!r}: ")

    def get_conn(self) -> Client:
        """Return the client for the connection, which keeps one TCP connection alive."""
        if self._client is None:
            from airflow_anon.client.requests_client import Client

            self._client = Client(self.endpoint(), poll_counter(self.anon_conn_id))
        return self._client

    def close(self) -> None:
        """Close the TCP connection, if there is one; the hook can be used again."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def drive(self, flow: Flow[T], *, retry_unreadable_connection: bool = False) -> T:
        """
        Carry a flow with the API out.

        :param retry_unreadable_connection: whether a connection that cannot be read counts as an API that does not answer.
        """
        from airflow_anon.client.network import unread
        from airflow_anon.client.requests_client import drive

        def send(request: Request) -> Response | NoResponse:
            try:
                client = self.get_conn()
            except AnonConfigurationError as error:
                if not retry_unreadable_connection:
                    raise
                return unread(error, "the worker")
            return client.send(request)

        return drive(send, flow, log_line=self.log_line, reload=self._reload)

    async def adrive(
        self,
        flow: Flow[T],
        *,
        log_line: Callable[[LogLine], None] | None = None,
        retry_unreadable_connection: bool = False,
        on_worker: bool = False,
    ) -> T:
        """
        Carry a flow with the API out without blocking the event loop.

        All flows of one connection and event loop share a client.

        :param log_line: takes each line for the log, in place of the hook's own.
        :param retry_unreadable_connection: whether a connection that cannot be read counts as an API that does not
            answer.
        :param on_worker: as :meth:`acquire` takes it.
        """
        from airflow_anon.client.aiohttp_client import adrive

        client = self.acquire(on_worker=on_worker)
        try:
            return await adrive(
                client,
                flow,
                log_line=log_line or self.log_line,
                retry_unreadable_connection=retry_unreadable_connection,
            )
        finally:
            await client.release()

    def acquire(self, *, on_worker: bool = False) -> SharedClient:
        """
        Take part in the client that all flows of one connection and event loop share; release it at the end.

        :param on_worker: whether a signal may end the task meanwhile: then the connection is read as other tasks
            read theirs. An asynchronous look-up that is cancelled can leave the task's channel to Airflow locked,
            or out of step.
        """
        from airflow_anon.client.shared_client import SharedClient

        read = partial(asyncio.to_thread, self.endpoint) if on_worker else self.aendpoint
        place = "the worker" if on_worker else "the triggerer"
        key = (type(self), self.anon_conn_id)
        return SharedClient.acquire(key, read, poll_counter(self.anon_conn_id), place)

    async def adrive_each(
        self,
        flows: Mapping[K, Flow[T]],
        enough: Callable[[K, T], bool],
        *,
        until: float,
        log_line: Callable[[LogLine], None],
        retry_unreadable_connection: bool = False,
        on_worker: bool = False,
    ) -> None:
        """
        Carry flows out side by side, until the last is over, one of them is enough, or the time is.

        :param enough: takes each result as it comes, and says whether the others can be left.
        :param until: when those that are not over are left, in seconds since the epoch; infinite for never.
        :raises AnonError: the first that one of them raises; the others are left.
        """
        is_enough = False

        async def carry_out(key: K, flow: Flow[T]) -> bool:
            # A task keeps what it returns until all are over, so not the result.
            nonlocal is_enough
            result = await self.adrive(
                flow,
                log_line=log_line,
                retry_unreadable_connection=retry_unreadable_connection,
                on_worker=on_worker,
            )
            is_enough = enough(key, result) or is_enough
            return is_enough

        tasks = [asyncio.ensure_future(carry_out(*item)) for item in flows.items()]
        try:
            timeout = None if math.isinf(until) else max(until - time.time(), 0.0)
            for done in asyncio.as_completed(tasks, timeout=timeout):
                if await done:
                    return
        except asyncio.TimeoutError:
            return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def endpoint(self) -> Endpoint:
        """
        Read the Airflow connection.

        :raises AnonConfigurationError: there is none of this name, or a field of it makes no sense.
        """
        return self._checked(self._look_up())

    async def aendpoint(self) -> Endpoint:
        """Read the Airflow connection like :meth:`endpoint`, without blocking the event loop."""
        return self._checked(await self._alook_up())

    def _look_up(self) -> Connection:
        try:
            return self.get_connection(self.anon_conn_id)
        except Exception as error:  # noqa: BLE001  without its cause, whose text may be the connection itself
            raise self._unreadable(error) from None

    async def _alook_up(self) -> Connection:
        try:
            if self._has_own_lookup():
                return await asyncio.to_thread(self.get_connection, self.anon_conn_id)
            return await get_async_connection(self.anon_conn_id, hook=self)
        except Exception as error:  # noqa: BLE001
            raise self._unreadable(error) from None

    def log_line(self, line: LogLine) -> None:
        """Write a line of a flow to the log."""
        write(self.log, line)

    def _has_own_lookup(self) -> bool:
        """Say whether a subclass has put its own ``get_connection`` before whatever ``aget_connection`` there is."""
        own = type(self).__mro__[: type(self).__mro__.index(BaseHook)]
        lookups = (
            name for kind in own for name in ("aget_connection", "get_connection") if name in vars(kind)
        )
        return next(lookups, None) == "get_connection"

    def _checked(self, connection: Connection) -> Endpoint:
        # The text of extra, never extra_dejson: reading that masks secrets, which blocks an event loop.
        try:
            endpoint = Endpoint.from_connection(
                self.anon_conn_id,
                host=connection.host,
                schema=connection.schema,
                port=connection.port,
                login=connection.login,
                password=connection.password,
                extra=connection.extra,
            )
        except AnonConfigurationError as error:
            # Some formatters of tracebacks show variables, and there are secrets in those.
            del connection
            raise error.with_traceback(None) from None
        for caution in endpoint.cautions:
            self.log.warning("%s", caution)
        return endpoint

    def _unreadable(self, error: Exception) -> AnonConfigurationError:
        missing = isinstance(error, AirflowNotFoundException) or _is_not_found(error)
        kind = AnonConfigurationError if missing else AnonUnreadableConnectionError
        why = "There is no such connection." if missing else f"It could not be read ({type(error).__name__})."
        return kind(
            f"Connection {self.anon_conn_id!r}: {why} Create it with type 'anon', or correct anon_conn_id.",
            conn_id=self.anon_conn_id,
            field="anon_conn_id",
        )

    def _reload(self) -> bool:
        return self._client is not None and self._client.reload(self.endpoint)

    @staticmethod
    def _group(workflow_run_id: str | UUID, timeout: float, **options: Any) -> WaitGroup:
        now = time.time()
        policy = WaitPolicy(started_at=now, deadline=now + timeout, **options)
        return WaitGroup(policy, [normalise_id(workflow_run_id)])

    def _concluded(self, group: WaitGroup, polled: PollResult) -> WorkflowRun:
        for state in group.members.values():
            group.take(state, polled)
        for line in group.ending():
            self.log_line(line)
        result_of(group)
        return group.runs[0]


def write(log: Any, line: LogLine) -> None:
    """Write a line of a flow to a log."""
    (log.warning if line.level == "warning" else log.info)("%s", fit_text(line.text))


def _is_not_found(error: Exception) -> bool:
    """Say whether an ``AirflowRuntimeError`` of Airflow 3 reports a connection that does not exist."""
    response = getattr(error, "error", None)
    return getattr(getattr(response, "error", None), "name", None) == "CONNECTION_NOT_FOUND"
