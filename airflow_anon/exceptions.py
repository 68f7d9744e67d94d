"""
Everything that can go wrong.

::

    AnonError                          trouble with the wait; nothing is known to be wrong with the run
      AnonConfigurationError           a setting of the connection makes no sense
        AnonUnreadableConnectionError  the connection could not be read just now; worth a retry
      AnonInvalidIdError               the id is no UUID
      AnonUnavailableError             lost contact: the state of the run is unknown; worth a retry
      AnonRejectedError                the API answered, and said no
        AnonAuthenticationError        401, 403
        AnonNotFoundError              404
      AnonUnknownStatusError           the run ended in a status this version does not know
      AnonProtocolError                an answer that describes no workflow run
    AnonWorkflowRunFailedError         the run failed              (an AirflowFailException)
    AnonWaitTimeoutError               the wait's time is over     (an AirflowSensorTimeout)
      AnonUserInputTimeoutError        the user input took too long

Errors about the wait are no Airflow exceptions, so that ``soft_fail`` cannot hide them and
``retries`` apply to them in every mode. The last three end a task and are Airflow's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout

from airflow_anon.core.errors import (
    AnonAuthenticationError as AnonAuthenticationError,
    AnonConfigurationError as AnonConfigurationError,
    AnonError as AnonError,
    AnonInvalidIdError as AnonInvalidIdError,
    AnonNotFoundError as AnonNotFoundError,
    AnonProtocolError as AnonProtocolError,
    AnonRejectedError as AnonRejectedError,
    AnonUnavailableError as AnonUnavailableError,
    AnonUnknownStatusError as AnonUnknownStatusError,
    AnonUnreadableConnectionError as AnonUnreadableConnectionError,
)
from airflow_anon.core.messages import clipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_anon.runs import WorkflowRun


class AnonWorkflowRunFailedError(AirflowFailException):
    """
    The run failed. Its id will never do anything else, so the task is not retried.

    :param run: the run as it was last seen; the first of them, where many were waited for.
    :param runs: all that failed.
    """

    retryable = False

    def __init__(
        self, message: str, run: WorkflowRun | None = None, runs: Sequence[WorkflowRun] = ()
    ) -> None:
        super().__init__(message)
        self.run = run
        self.runs = tuple(runs) or ((run,) if run else ())
        self.workflow_run_id = run.id if run else None
        self.last_status = clipped(str(run.status)) if run else None


class AnonWaitTimeoutError(AirflowSensorTimeout):
    """
    The wait took longer than ``timeout``.

    :param last_status: the run's status when it was last seen, if it ever was.
    :param last_seen_at: when that was, in seconds since the epoch.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        workflow_run_id: str | None = None,
        last_status: str | None = None,
        last_seen_at: float | None = None,
    ) -> None:
        super().__init__(message)
        self.workflow_run_id = workflow_run_id
        self.last_status = last_status
        self.last_seen_at = last_seen_at


class AnonUserInputTimeoutError(AnonWaitTimeoutError):
    """The run waited for user input for longer than ``user_input_timeout``."""
