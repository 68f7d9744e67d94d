"""One simulated run on its way through its script. No I/O; whoever asks brings the time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.simulator.clock import timestamp
from airflow_anon.simulator.scripts import Step

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT_STAYS = 100
USER_ID = "5f0c3b52-6a0e-4c7b-9a55-2d6c1f3e8b10"


@dataclass(frozen=True, slots=True)
class Change:
    """A run entered a step of its script at a time."""

    at: float
    run_id: str
    status: str | None


@dataclass(slots=True)
class Stay:
    """A run's time in one step: since when, and how many polls saw it there."""

    step: Step
    since: float
    polls: int = 0


@dataclass(slots=True)
class ScriptedRun:
    """
    A run and where it stands.

    :param script: what *steps* were read from, to be shown.
    :param created_at: seconds since the epoch, as all times here.
    :param on_change: told each time that the run enters a step.
    """

    id: str
    workflow_id: str
    script: str
    steps: tuple[Step, ...]
    created_at: float
    on_change: Callable[[Change], None]
    job_run_id: str = field(default_factory=lambda: str(uuid4()))
    polls: int = 0
    stays: deque[Stay] = field(default_factory=lambda: deque(maxlen=KEPT_STAYS))
    _index: int = -1

    def __post_init__(self) -> None:
        """Enter the first step."""
        self._enter_next(self.created_at)

    @property
    def step(self) -> Step:
        """The step it was in when it was last settled."""
        return self._stay.step

    def settle(self, now: float) -> None:
        """Pass through the steps whose time is over."""
        while self.step.seconds is not None and now >= self._stay.since + self.step.seconds:
            self._enter_next(self._stay.since + self.step.seconds)

    def poll(self, now: float) -> dict[str, Any] | None:
        """Show the run to a client: its JSON, or nothing while it is not visible."""
        self.settle(now)
        shown = self.payload()
        self.polls += 1
        self._stay.polls += 1
        if self.step.polls is not None and self._stay.polls >= self.step.polls:
            self._enter_next(now)
        return shown

    def answer(self, now: float) -> None:
        """
        Go on, as when a person has answered.

        :raises ValueError: the run waits for nobody.
        """
        self.settle(now)
        if not self.step.until_answered:
            raise ValueError(f"run {self.id} is {self.step.status} and waits for no answer")
        self._enter_next(now)

    def end(self, status: WorkflowRunStatus, now: float) -> None:
        """
        End now, whatever the script says.

        :raises ValueError: the run has ended already.
        """
        self.settle(now)
        if self.step.ended:
            raise ValueError(f"run {self.id} has ended already: {self.step.status}")
        self.steps = (*self.steps[: self._index + 1], Step(status.value, ended=True, state=self.step.state))
        self._enter_next(now)

    def payload(self) -> dict[str, Any] | None:
        """Return the API's nine fields, or nothing while the run is not visible."""
        step = self.step
        if step.status is None:
            return None
        is_pending = step.status == WorkflowRunStatus.PENDING
        return {
            "id": self.id,
            "workflowId": self.workflow_id,
            "status": step.status,
            "completedAt": timestamp(self._stay.since) if step.ended else None,
            "createdAt": timestamp(self.created_at),
            "updatedAt": timestamp(self._stay.since),
            "createdByUserId": USER_ID,
            "jobRunId": None if is_pending else self.job_run_id,
            "currentStateName": step.state,
        }

    @property
    def _stay(self) -> Stay:
        return self.stays[-1]

    def _enter_next(self, at: float) -> None:
        self._index += 1
        self.stays.append(Stay(self.steps[self._index], at))
        self.on_change(Change(at, self.id, self.step.status))
