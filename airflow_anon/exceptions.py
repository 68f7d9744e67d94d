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
      AnonUserInputTimeoutError        a person took too long

Errors about the wait are no Airflow exceptions, so that ``soft_fail`` cannot hide them and
``retries`` apply to them in every mode. The last three end a task and are Airflow's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_anon.sanitize import fit_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_anon.outcomes import (
        AnonUserInputTimeoutError as AnonUserInputTimeoutError,
        AnonWaitTimeoutError as AnonWaitTimeoutError,
        AnonWorkflowRunFailedError as AnonWorkflowRunFailedError,
    )


class AnonError(Exception):
    """
    Trouble with a wait.

    :param message: what happened and what to do about it.
    :param workflow_run_id: the run that was waited for, where one was.
    :param status_code: the HTTP status that said so, where one did.
    :param retryable: whether trying again later may help.
    :param last_status: the run's status when it was last seen, if it ever was.
    :param last_seen_at: when that was, in seconds since the epoch.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        workflow_run_id: str | None = None,
        status_code: int | None = None,
        retryable: bool | None = None,
        last_status: str | None = None,
        last_seen_at: float | None = None,
    ) -> None:
        super().__init__(fit_text(message))
        self.workflow_run_id = workflow_run_id
        self.status_code = status_code
        self.last_status = last_status
        self.last_seen_at = last_seen_at
        if retryable is not None:
            self.retryable = retryable

    def to_payload(self) -> dict[str, Any]:
        """Return plain JSON that :func:`error_from_payload` reads."""
        return {"kind": type(self).__name__, "message": str(self), "retryable": self.retryable, **vars(self)}


class AnonConfigurationError(AnonError):
    """
    A setting of the connection makes no sense.

    :param conn_id: the connection.
    :param field: its field, by the name that the form and ``extra`` use.
    """

    def __init__(self, message: str, *, conn_id: str = "", field: str = "", **data: Any) -> None:
        super().__init__(message, **data)
        self.conn_id = conn_id
        self.field = field

    @property
    def is_unread(self) -> bool:
        """Whether the connection itself was not to be had, and no field of it is wrong."""
        return self.field == "anon_conn_id"


class AnonUnreadableConnectionError(AnonConfigurationError):
    """Airflow could not read the connection just now, which says nothing of what is in it."""

    retryable = True


class AnonInvalidIdError(AnonError, ValueError):
    """A workflow run id that the API's own pattern refuses."""


class AnonUnavailableError(AnonError):
    """Lost contact with the API. The run itself may be well: its state is unknown."""

    retryable = True


class AnonRejectedError(AnonError):
    """The API answered with a status that asking again will not change."""


class AnonAuthenticationError(AnonRejectedError):
    """The API refused the credential (401, 403)."""


class AnonNotFoundError(AnonRejectedError):
    """The API knows no such run, or does not show it to this credential (404)."""


class AnonUnknownStatusError(AnonError):
    """The run ended in a status that this version of the package does not know."""


class AnonProtocolError(AnonError):
    """An answer that does not describe a workflow run."""


def error_from_payload(payload: Mapping[str, Any]) -> AnonError:
    """Make the error again that :meth:`AnonError.to_payload` wrote; a kind of a later version is an ``AnonError``."""
    data = dict(payload)
    message = str(data.pop("message"))
    kind = globals().get(data.pop("kind"))
    if not (isinstance(kind, type) and issubclass(kind, AnonError)):
        kind = AnonError
    error: AnonError = kind(message)
    for name in vars(error).keys() & data.keys():
        setattr(error, name, data[name])
    error.retryable = data.get("retryable") is True
    return error


AIRFLOW_ERRORS = frozenset(
    {"AnonWorkflowRunFailedError", "AnonWaitTimeoutError", "AnonUserInputTimeoutError"}
)


def __getattr__(name: str) -> Any:
    # The core and the simulator run without Airflow, so its exceptions are loaded on first use.
    if name in AIRFLOW_ERRORS:
        import airflow_anon.outcomes

        return getattr(airflow_anon.outcomes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
