"""The state of the simulated API: its runs, what goes wrong next, and what it has counted. No I/O."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow_anon.core.ids import normalise_id
from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.simulator.scripted_run import Change, ScriptedRun
from airflow_anon.simulator.scripts import Fault, parse_faults, parse_script

if TYPE_CHECKING:
    from airflow_anon.simulator.clock import Clock

KEPT = 10_000
KEPT_SPOILT = 10


class OutageKind(str, Enum):
    """How the API is away: no socket listens, or every request is turned down."""

    REFUSED = "refused"
    UNAVAILABLE = "503"
    TOO_MANY_REQUESTS = "429"

    __str__ = str.__str__

    @classmethod
    def parse(cls, text: str) -> OutageKind:
        """
        Read a kind of outage.

        :raises ValueError: it is none.
        """
        try:
            return cls(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a kind of outage; use {', '.join(cls)}") from None


@dataclass(frozen=True, slots=True)
class Outage:
    """The API is away until a time by the world's clock."""

    kind: OutageKind
    until: float = inf
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A request at a time got a fault in place of the right answer."""

    at: float
    run_id: str
    fault: Fault


@dataclass(slots=True)
class Counters:
    """What was asked of the API; the control API is not counted."""

    requests: int = 0
    connections: int = 0
    requests_by_run: Counter[str] = field(default_factory=Counter)
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    last_headers: dict[str, str] = field(default_factory=dict)

    def record(self, run_id: str | None, headers: dict[str, str], at: float) -> None:
        """Count one request that arrived at *at*, by a monotonic clock."""
        self.requests += 1
        self.arrivals.append(at)
        self.last_headers = headers
        if run_id is not None:
            self.requests_by_run[run_id.lower()] += 1


class World:
    """Everything that the simulator remembers."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.runs: dict[str, ScriptedRun] = {}
        self.changes: deque[Change] = deque(maxlen=KEPT)
        self.counters = Counters()
        self.spoilt: deque[Spoilt] = deque(maxlen=KEPT_SPOILT)
        self._faults: dict[str | None, deque[Fault]] = {}
        self._outage: Outage | None = None

    def reset(self) -> None:
        """Forget everything."""
        self.runs.clear()
        self.changes.clear()
        self.counters = Counters()
        self.spoilt.clear()
        self._faults.clear()
        self._outage = None

    def create_run(self, script: str, run_id: str | None = None, workflow_id: str | None = None) -> str:
        """
        Start a run and return its id.

        :raises ValueError: the script or an id makes no sense, or there is such a run already.
        """
        new_id = str(uuid4()) if run_id is None else normalise_id(run_id)
        if new_id.lower() in self.runs:
            raise ValueError(f"there is a run {new_id} already")
        self.runs[new_id.lower()] = ScriptedRun(
            id=new_id,
            workflow_id=str(uuid4()) if workflow_id is None else normalise_id(workflow_id),
            script=script,
            steps=parse_script(script),
            created_at=self.clock.now(),
            on_change=self.changes.append,
        )
        return new_id

    def find(self, run_id: str) -> ScriptedRun:
        """
        Return a run as it stands now.

        :raises LookupError: there is none.
        """
        run = self.runs.get(run_id.lower())
        if run is None:
            raise LookupError(f"there is no run {run_id}")
        run.settle(self.clock.now())
        return run

    def poll(self, run_id: str) -> dict[str, Any] | None:
        """Show a run to a client: its JSON, or nothing if there is none or it is not visible yet."""
        run = self.runs.get(run_id.lower())
        return run.poll(self.clock.now()) if run else None

    def answer(self, run_id: str) -> None:
        """Answer the question that a run waits with."""
        self.find(run_id).answer(self.clock.now())

    def end(self, run_id: str, status: WorkflowRunStatus) -> None:
        """End a run now."""
        self.find(run_id).end(status, self.clock.now())

    def take_changes(self) -> list[Change]:
        """Return what has happened to the runs since this was last asked, in order."""
        for run in self.runs.values():
            run.settle(self.clock.now())
        changes = sorted(self.changes, key=lambda change: change.at)
        self.changes.clear()
        return changes

    def add_faults(self, text: str, run_id: str | None = None) -> None:
        """Spoil the next requests for one run, or for any."""
        key = None if run_id is None else normalise_id(run_id).lower()
        self._faults.setdefault(key, deque()).extend(parse_faults(text))

    def take_fault(self, run_id: str) -> Fault | None:
        """Return what is wrong with the answer to this request; a fault of the run itself goes first."""
        for key in (run_id.lower(), None):
            if self._faults.get(key):
                fault = self._faults[key].popleft()
                self.spoilt.append(Spoilt(self.clock.now(), run_id, fault))
                return fault
        return None

    @property
    def faults_left(self) -> int:
        """How many requests are still going to be spoilt."""
        return sum(len(faults) for faults in self._faults.values())

    def start_outage(self, kind: OutageKind, seconds: float = inf, retry_after: str | None = None) -> None:
        """Be away for *seconds* by the clock; an outage that lasts already is replaced."""
        self._outage = Outage(kind, self.clock.now() + seconds, retry_after)

    def stop_outage(self) -> None:
        """Be back."""
        self._outage = None

    @property
    def outage(self) -> Outage | None:
        """The outage that lasts now, if one does."""
        if self._outage and self.clock.now() >= self._outage.until:
            self._outage = None
        return self._outage

    @property
    def outage_left(self) -> float:
        """For how many seconds the outage will last."""
        return self.outage.until - self.clock.now() if self.outage else 0
