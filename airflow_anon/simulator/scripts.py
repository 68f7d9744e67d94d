"""The languages that scripts and faults are written in. No I/O, no clock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import TYPE_CHECKING

from airflow_anon.runs import STATUS_BY_NAME, UNDER_WAY

if TYPE_CHECKING:
    from collections.abc import Mapping

MISSING = "MISSING"
UNKNOWN = "UNKNOWN"
ENDED = "ENDED"
UNITS: Mapping[str, float] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|m|h)")
POLLS = re.compile(r"([1-9]\d*) polls?")
UNTIL_ANSWERED = re.compile(r"until +answered")
STEP = re.compile(r"(?P<name>[^\s()]+)\s*(?:\((?P<state>[^()]+)\))?\s*(?P<lasts>[^()]*)")
COMMA_OUTSIDE_PARENTHESES = re.compile(r",(?![^()]*\))")

COMMA_OUTSIDE_QUOTES = re.compile(r',(?=(?:[^"\\]|\\.|"(?:\\.|[^"\\])*")*$)')
WORDS = re.compile(r'(?:[^\s"]|"(?:\\.|[^"\\])*")+')
TIMES = re.compile(r"x([1-9]\d{0,5})")
STATUS_CODE = re.compile(r"[2-5]\d\d")


@dataclass(frozen=True, slots=True)
class Step:
    """
    One step of a script: how a run looks, and until when.

    ``status`` is none where the run is not visible. At most one of ``seconds``, ``polls`` and
    ``until_answered`` is set; a step with none of them holds for ever.
    """

    status: str | None
    ended: bool = False
    state: str | None = None
    seconds: float | None = None
    polls: int | None = None
    until_answered: bool = False

    @property
    def holds_for_ever(self) -> bool:
        """Whether no step can follow by itself."""
        return self.seconds is None and self.polls is None and not self.until_answered


def parse_script(text: str) -> tuple[Step, ...]:
    """
    Read a script such as ``PENDING 2s, IN_PROGRESS (post_invoice) 5s, COMPLETED``.

    :raises ValueError: names the wrong step and what would be right.
    """
    parts = [part.strip() for part in COMMA_OUTSIDE_PARENTHESES.split(text)]
    return tuple(_place_step(part, number, len(parts)) for number, part in enumerate(parts, start=1))


def _place_step(text: str, number: int, last: int) -> Step:
    try:
        step = _parse_step(text)
        _check_place(step, is_first=number == 1, is_last=number == last)
    except ValueError as error:
        raise ValueError(f"step {number} of the script, {text!r}: {error}") from None
    return step


def _parse_step(text: str) -> Step:
    match = STEP.fullmatch(text)
    if not match:
        raise ValueError("a step is a status, a state name in parentheses if you like, and how long it lasts")
    status, ended = _parse_status(match["name"])
    lasts = match["lasts"].strip()
    state = match["state"]
    if not lasts:
        return Step(status, ended, state)
    if DURATION.fullmatch(lasts):
        return Step(status, ended, state, seconds=parse_seconds(lasts))
    if polls := POLLS.fullmatch(lasts):
        return Step(status, ended, state, polls=int(polls[1]))
    if UNTIL_ANSWERED.fullmatch(lasts):
        return Step(status, ended, state, until_answered=True)
    raise ValueError(
        f"{lasts!r} is not a duration; use '500ms', '2s', '3m', '1h', '3 polls', 'until answered'"
    )


def _parse_status(name: str) -> tuple[str | None, bool]:
    if name == MISSING:
        return None, False
    if name in STATUS_BY_NAME:
        status = STATUS_BY_NAME[name]
        return status.value, status not in UNDER_WAY
    kind, _, unknown = name.partition(":")
    if kind in (UNKNOWN, ENDED) and unknown:
        if unknown in STATUS_BY_NAME:
            raise ValueError(f"{unknown} is a known status: write it without {kind!r}")
        return unknown, kind == ENDED
    guesses = get_close_matches(name.upper(), [*STATUS_BY_NAME, MISSING], n=1)
    hint = f"did you mean {guesses[0]}?" if guesses else f"right are {', '.join([*STATUS_BY_NAME, MISSING])}"
    raise ValueError(
        f"{name!r} is no status; {hint} "
        f"(One that the API may gain is written {UNKNOWN}:NAME, or {ENDED}:NAME if the run ends with it.)",
    )


def _check_place(step: Step, *, is_first: bool, is_last: bool) -> None:
    if step.status is None and not is_first:
        raise ValueError(f"only the first step can be {MISSING}: a run that was seen stays visible")
    if step.ended and not is_last:
        raise ValueError("a run that has ended stays as it is, so this must be the last step")
    if step.holds_for_ever and not is_last:
        raise ValueError("it must say how long it lasts, as the other steps before the last: '2s', '3 polls'")
    if is_last and not step.holds_for_ever:
        raise ValueError("the last step holds for ever: write it without a duration, or add a step after it")


def parse_seconds(text: str) -> float:
    """
    Read a duration such as ``500ms`` or ``2s``.

    :raises ValueError: it is none.
    """
    match = DURATION.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a duration; use '500ms', '2s', '3m', '1h'")
    return float(match[1]) * UNITS[match[2]]


class FaultKind(str, Enum):
    """What can be wrong with one answer, by the words of the fault language."""

    STATUS = "status"
    SLOW = "slow"
    HANG = "hang"
    DRIP = "drip"
    DRIP_HEADERS = "drip-headers"
    CUT = "cut"
    RESET = "reset"
    GARBAGE = "garbage"
    HTML = "html"
    WRONG_ID = "wrong-id"
    EMPTY = "empty"
    HUGE = "huge"
    HUGE_CHUNKED = "huge-chunked"
    REDIRECT = "redirect"

    __str__ = str.__str__


FAULT_WORDS: Mapping[str, FaultKind] = {
    kind.value: kind for kind in FaultKind if kind is not FaultKind.STATUS
}
PACED = frozenset({FaultKind.SLOW, FaultKind.DRIP, FaultKind.DRIP_HEADERS})


@dataclass(frozen=True, slots=True)
class Fault:
    """
    What is wrong with one answer.

    :param status: the HTTP status to answer with, if the fault is one.
    :param seconds: how late the answer is, or how long each of its bytes takes.
    """

    kind: FaultKind
    status: int = 200
    seconds: float = 0
    retry_after: str | None = None
    body: str | None = None

    def __str__(self) -> str:
        """Name it by its first word."""
        return str(self.status) if self.kind is FaultKind.STATUS else self.kind.value


def parse_faults(text: str) -> tuple[Fault, ...]:
    """
    Read faults such as ``503 x3, 429 retry-after=7, slow 2s``: one for each of the next requests.

    :raises ValueError: names the wrong fault and what would be right.
    """
    parts = [part.strip() for part in COMMA_OUTSIDE_QUOTES.split(text)]
    return tuple(fault for number, part in enumerate(parts, start=1) for fault in _repeat_fault(part, number))


def _repeat_fault(text: str, number: int) -> list[Fault]:
    try:
        return _parse_fault(text)
    except ValueError as error:
        raise ValueError(f"fault {number}, {text!r}: {error}") from None


def _parse_fault(text: str) -> list[Fault]:
    head, *words = WORDS.findall(text) or [""]
    times = 1
    if words and (repeat := TIMES.fullmatch(words[-1])):
        times = int(repeat[1])
        words.pop()
    if STATUS_CODE.fullmatch(head):
        fault = _parse_status_fault(int(head), words)
    elif head in FAULT_WORDS:
        fault = _parse_named_fault(FAULT_WORDS[head], words)
    else:
        raise ValueError(f"right are an HTTP status from 200 to 599, {', '.join(FAULT_WORDS)}")
    return [fault] * times


def _parse_status_fault(status: int, words: list[str]) -> Fault:
    options: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in ("retry-after", "body") or not value:
            raise ValueError(f"{word!r}: a status takes 'retry-after=7', 'body=\"...\"' and, last, 'x3'")
        options[name] = _unquote(value)
    return Fault(
        FaultKind.STATUS,
        status=status,
        retry_after=options.get("retry-after"),
        body=options.get("body"),
    )


def _parse_named_fault(kind: FaultKind, words: list[str]) -> Fault:
    text = " ".join(words)
    if kind in PACED:
        return Fault(kind, seconds=parse_seconds(text))
    if text:
        raise ValueError(f"{text!r}: {kind} takes nothing but, last, 'x3'")
    return Fault(kind)


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
