"""The errors of a wait, which are no Airflow exceptions, and how they travel in an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_anon.core.sanitize import fit_text

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where users import them from, and so what logs, pickles and the reference call them.
HOME = "airflow_anon.exceptions"


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

    __module__ = HOME

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

    __module__ = HOME

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

    __module__ = HOME

    retryable = True


class AnonInvalidIdError(AnonError, ValueError):
    """A workflow run id that the API's own pattern refuses."""

    __module__ = HOME


class AnonUnavailableError(AnonError):
    """Lost contact with the API. The run itself may be well: its state is unknown."""

    __module__ = HOME

    retryable = True


class AnonRejectedError(AnonError):
    """The API answered with a status that asking again will not change."""

    __module__ = HOME


class AnonAuthenticationError(AnonRejectedError):
    """The API refused the credential (401, 403)."""

    __module__ = HOME


class AnonNotFoundError(AnonRejectedError):
    """The API knows no such run, or does not show it to this credential (404)."""

    __module__ = HOME


class AnonUnknownStatusError(AnonError):
    """The run ended in a status that this version of the package does not know."""

    __module__ = HOME


class AnonProtocolError(AnonError):
    """An answer that does not describe a workflow run."""

    __module__ = HOME


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
