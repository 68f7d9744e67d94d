"""What a wait remembers between two looks, and what it tells the log of it. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from airflow_anon.runs import WorkflowRun, is_queued

STILL_WAITING_EVERY = 300.0
# What is remembered goes into Airflow's database: an API gone mad must not fill it.
LONGEST_TEXT = 120
MOST_STATUSES = 16
OTHERS = "others"
# From how many seconds on a duration is written in a unit, and in which the rest is.
UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
# By so much a question may seem to have been asked later than it was: an answer takes its time, and clocks differ.
SAME_QUESTION = 30.0


class News(NamedTuple):
    """One line for the log; *level* is ``info`` or ``warning``."""

    level: str
    text: str


def duration(seconds: float) -> str:
    """Write a duration as a person would: ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds == float("inf"):
        return "an unlimited time"
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    size, unit, small, small_unit = next(row for row in UNITS if seconds >= row[0])
    whole, rest = divmod(int(seconds), size)
    return f"{whole} {unit} {rest // small} {small_unit}" if rest // small else f"{whole} {unit}"


def clipped(text: str) -> str:
    """Cut a text that is far longer than a status or the name of a state should be."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def described(status: str | None, state_name: str | None) -> str:
    """Write a status together with the name of the state that the run is in."""
    if status is None:
        return "in a status that was not kept"
    return f"{clipped(status)} (state {clipped(state_name)!r})" if state_name else clipped(status)


@dataclass(slots=True)
class Memory:
    """
    What has happened in a wait so far; plain values, so that Airflow can keep it.

    Times are seconds since the epoch by our own clock.

    :param seen_at: when the run was last seen; None before the first good look.
    :param status: the run's status then; *state_name*: its ``currentStateName``.
    :param missed: looks in a row that went unanswered since.
    :param missed_since: when the first of these went unanswered, if any did.
    :param trouble: what the last of these ran into.
    :param awaiting_since: when the run began to wait for a person, while it does.
    :param unwatched: whether nobody has looked since for longer than was planned.
    :param looks: looks taken in all.
    :param spent: seconds seen in each status.
    :param user_input_seconds: seconds seen waiting for a person; unlike *spent*, over all deferrals.
    :param is_queued: whether the run's work had not begun when it was last seen.
    :param queued_seconds: how long after the run's creation it began, if that was seen.
    :param warned_of: unknown statuses that the log has been told of.
    :param told_at: when the log was last told anything.
    :param looked_at: when the status was seen; unlike *seen_at* never what only counts as a look.
    """

    seen_at: float | None = None
    status: str | None = None
    state_name: str | None = None
    missed: int = 0
    missed_since: float = 0.0
    trouble: str = ""
    awaiting_since: float | None = None
    unwatched: bool = False
    looks: int = 0
    spent: dict[str, float] = field(default_factory=dict)
    user_input_seconds: float = 0.0
    is_queued: bool = False
    queued_seconds: float | None = None
    warned_of: list[str] = field(default_factory=list)
    told_at: float = 0.0
    looked_at: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON that :meth:`from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Memory:
        """Read what :meth:`to_json` wrote; fields of another version are passed over."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def saw(self, run: WorkflowRun, at: float, unchanged_for: float | None) -> tuple[list[News], bool]:
        """
        Take in a good look.

        :param unchanged_for: seconds for which, by the API's own clock, the run has not changed; None if
            that cannot be told.
        :return: what there is to tell, and whether the run has just begun to wait for a person.
        """
        news = []
        self.looks += 1
        before, self.status = self.status, clipped(str(run.status))
        state_before, self.state_name = (
            self.state_name,
            run.current_state_name and clipped(run.current_state_name),
        )
        changed = (before, state_before) != (self.status, self.state_name)
        self._take_time(run, before, at)
        if self.seen_at is not None and before is not None:
            if self.missed:
                news.append(
                    News("info", f"Contact again after {duration(at - self.seen_at)} without an answer.")
                )
            if changed:
                news.append(
                    News(
                        "info",
                        f"Workflow run {run.id}: {described(before, state_before)} -> {self.described()}",
                    )
                )
        self.seen_at, self.missed, self.trouble = at, 0, ""
        if not run.is_known and self.warns_of(self.status):
            news.append(News("warning", self._unknown(run)))
        changed_at = None if unchanged_for is None else at - unchanged_for
        entered = run.awaits_user_input and (changed or self._changed_unwatched(changed_at))
        if entered:
            self.awaiting_since = self._asked_at(at if changed_at is None else changed_at)
        elif not run.awaits_user_input:
            self.awaiting_since = None
        self.unwatched, self.looked_at = False, at
        return news, entered

    def warns_of(self, what: str) -> bool:
        """Say whether the log is to be warned of something: once, and not of more than a few."""
        if what in self.warned_of or len(self.warned_of) >= MOST_STATUSES:
            return False
        self.warned_of.append(what)
        return True

    def _asked_at(self, told: float) -> float:
        """Return when a person was asked: not before our own eyes saw something else, whatever we are told."""
        return told if self.looked_at is None else max(told, self.looked_at)

    def _changed_unwatched(self, changed_at: float | None) -> bool:
        """Say whether a run that looks as it did has been answered, and asks again, while nobody looked."""
        if not self.unwatched or self.awaiting_since is None or changed_at is None:
            return False
        return changed_at > self.awaiting_since + SAME_QUESTION

    def _take_time(self, run: WorkflowRun, before: str | None, at: float) -> None:
        if self.is_queued and self.queued_seconds is None:
            self.queued_seconds = run.seconds_queued
        self.is_queued = is_queued(run.status)
        if self.seen_at is None:
            return
        if self.awaiting_since is not None:
            self.user_input_seconds += at - self.seen_at
        if before is not None:
            name = before if before in self.spent or len(self.spent) < MOST_STATUSES else OTHERS
            self.spent[name] = self.spent.get(name, 0.0) + at - self.seen_at

    def missed_look(self, trouble: str, at: float) -> None:
        """Take in a look that went unanswered."""
        self.looks += 1
        if not self.missed:
            self.missed_since = at
        self.missed += 1
        self.trouble = trouble

    def waited(self) -> float:
        """Return the seconds between the first good look and the last."""
        return sum(self.spent.values())

    def described(self) -> str:
        """Write the status that was last seen, with the name of the state."""
        return described(self.status, self.state_name)

    def where_the_time_went(self) -> str:
        """Write the seconds seen in each status, such as ``PENDING 2 s, IN_PROGRESS 5 s``."""
        return ", ".join(f"{status} {duration(seconds)}" for status, seconds in self.spent.items())

    @staticmethod
    def _unknown(run: WorkflowRun) -> str:
        ending = "has ended" if run.is_over else "has not ended, so the wait goes on"
        return (
            f"Workflow run {run.id} has the status {clipped(run.status)!r}, which this version of "
            f"airflow-provider-anon does not know. By its completedAt it {ending}."
        )
