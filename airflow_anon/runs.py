"""What a workflow run is: its statuses, and what each of them means. No I/O, no clock, no Airflow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, cast

if TYPE_CHECKING:
    from pendulum import DateTime

# Where the API is, under its address.
API_PATH = "/api/v2"
UUID_PATTERN = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    r"|00000000-0000-0000-0000-000000000000",
    re.IGNORECASE | re.ASCII,
)
TIMESTAMP = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
    r"T(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?"
    r"(?:Z|[+-](?:[01]\d|2[0-3]):?[0-5]\d)",
    re.ASCII,
)
# An id that decides nothing: any that can be shown.
SHORT_TEXT = re.compile(r"[!-~]{1,120}")


class WorkflowRunStatus(str, Enum):
    """The statuses of the API."""

    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    AWAITING_USER_INPUT = "AWAITING_USER_INPUT"
    COMPLETED = "COMPLETED"
    COMPLETED_WITH_NO_ACTION_TAKEN = "COMPLETED_WITH_NO_ACTION_TAKEN"
    FAILED = "FAILED"

    __str__ = str.__str__


UNDER_WAY = frozenset(
    {WorkflowRunStatus.PENDING, WorkflowRunStatus.IN_PROGRESS, WorkflowRunStatus.AWAITING_USER_INPUT}
)
SUCCESSES = frozenset({WorkflowRunStatus.COMPLETED, WorkflowRunStatus.COMPLETED_WITH_NO_ACTION_TAKEN})


def is_queued(status: str | None) -> bool:
    """Say whether a status is that of a run whose work has not begun."""
    return status == WorkflowRunStatus.PENDING


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """
    One workflow run as the API described it at one moment.

    ``status`` is a :class:`WorkflowRunStatus`, or plain text where the API used a value that this
    version does not know. Times are by the API's clock. ``payload`` is the JSON as received. Only ``id`` and
    ``status`` are always there: what else is missing or cannot be read is None.

    From task to task hand on :meth:`to_payload`. Airflow refuses an XCom with an object of any class but its own,
    unless ``[core] allowed_deserialization_classes`` names it, here ``airflow_anon.runs.WorkflowRun``.
    """

    __version__: ClassVar[int] = 1

    id: str
    workflow_id: str | None
    status: WorkflowRunStatus | str
    current_state_name: str | None
    job_run_id: str | None
    created_by_user_id: str | None
    created_at: DateTime | None
    updated_at: DateTime | None
    completed_at: DateTime | None
    payload: Mapping[str, Any] = field(repr=False, hash=False)

    @classmethod
    def from_payload(cls, payload: object) -> WorkflowRun:
        """
        Read a run from an API body or from a trigger event; both have the same shape.

        A status this package does not know is kept as text and is never a success: guessing would
        turn tasks green on work that was not done. Fields beyond the API's nine are kept too.

        :raises ValueError: *payload* does not describe a workflow run.
        """
        if not isinstance(payload, Mapping):
            raise ValueError(f"a {type(payload).__name__} where a workflow run was expected")  # noqa: TRY004  one kind for all
        for name, pattern in DECISIVE:
            value = payload.get(name)
            if not (isinstance(value, str) and pattern.fullmatch(value)):
                raise ValueError(f"its field {name!r} is missing or malformed")
        return cls(
            id=payload["id"],
            status=STATUS_BY_NAME.get(payload["status"], payload["status"]),
            payload=payload,
            **{attribute: read(payload.get(name)) for name, attribute, read in FURTHER},
        )

    def to_payload(self) -> dict[str, Any]:
        """Return the run's JSON as it was received."""
        return dict(self.payload)

    def serialize(self) -> str:
        """Return what Airflow keeps of a run that a task returns: its JSON, as text that stays as it is."""
        return json.dumps(self.to_payload())

    @classmethod
    def deserialize(cls, data: str, version: int) -> WorkflowRun:
        """
        Read what :meth:`serialize` returned.

        :raises TypeError: it is a later version's.
        """
        if version > cls.__version__:
            raise TypeError(f"{cls.__name__} of version {version}, and this is version {cls.__version__}")
        return cls.from_payload(json.loads(data))

    @property
    def unreadable(self) -> dict[str, Any]:
        """The fields that say something which could not be read."""
        return {
            name: self.payload[name]
            for name, attribute, _ in FURTHER
            if getattr(self, attribute) is None and self.payload.get(name) is not None
        }

    @property
    def seconds_run(self) -> float | None:
        """Seconds from the run's creation to its end, or to its last change if it has none; None if they cannot be read."""
        return _seconds(self.created_at, self.completed_at or self.updated_at)

    @property
    def is_known(self) -> bool:
        """Whether this version knows the run's status."""
        return self.status in STATUS_BY_NAME

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, well or not; an unknown status has if ``completedAt`` is set."""
        if self.is_known:
            return self.status not in UNDER_WAY
        return self.payload.get("completedAt") is not None

    @property
    def succeeded(self) -> bool:
        """Whether the run ended well; never true for a status this version does not know."""
        return self.status in SUCCESSES

    @property
    def failed(self) -> bool:
        """Whether the run ended in a status that this version knows, and not well."""
        return self.is_known and self.is_over and not self.succeeded

    @property
    def took_no_action(self) -> bool:
        """Whether the run ended well without doing anything."""
        return self.status == WorkflowRunStatus.COMPLETED_WITH_NO_ACTION_TAKEN

    @property
    def seconds_queued(self) -> float | None:
        """Seconds from the run's creation to its last change, which began its work; None if it is not at work."""
        return (
            _seconds(self.created_at, self.updated_at)
            if self.status == WorkflowRunStatus.IN_PROGRESS
            else None
        )

    @property
    def awaits_user_input(self) -> bool:
        """Whether the run stands still until a user answers."""
        return self.status == WorkflowRunStatus.AWAITING_USER_INPUT


STATUS_BY_NAME: Mapping[str, WorkflowRunStatus] = {status.value: status for status in WorkflowRunStatus}
DECISIVE = (("id", UUID_PATTERN), ("status", re.compile(r"\S+")))


def _seconds(start: DateTime | None, end: DateTime | None) -> float | None:
    return None if start is None or end is None else (end - start).total_seconds()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _short_text(value: object) -> str | None:
    return value if isinstance(value, str) and SHORT_TEXT.fullmatch(value) else None


def _time(value: object) -> DateTime | None:
    import pendulum

    if not (isinstance(value, str) and TIMESTAMP.fullmatch(value)):
        return None
    try:
        return cast("DateTime", pendulum.parse(value)).in_timezone("UTC")
    except (ValueError, OverflowError):
        return None


FURTHER: tuple[tuple[str, str, Callable[[object], Any]], ...] = (
    ("workflowId", "workflow_id", _short_text),
    ("currentStateName", "current_state_name", _text),
    ("jobRunId", "job_run_id", _short_text),
    ("createdByUserId", "created_by_user_id", _short_text),
    ("createdAt", "created_at", _time),
    ("updatedAt", "updated_at", _time),
    ("completedAt", "completed_at", _time),
)
