"""
Makes foreign data fit for Airflow: what cannot be encoded ends here. No I/O, no Airflow.

Airflow hands values on as JSON, msgpack and UTF-8, and keeps them in PostgreSQL. Half of a surrogate pair,
U+0000, a whole number beyond 64 bits or an infinite one makes one of these raise, in the triggerer with the
waits of all DAGs, and a few keys mean something of their own to Airflow.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

REPLACEMENT = "\ufffd"
UNFIT_TEXT = re.compile("[\0\ud800-\udfff]")
SMALLEST, LARGEST = -(2**63), 2**64 - 1
# Airflow's parser of JSON stops at 200 levels; a run has a few.
DEEPEST = 64
# Airflow's serialisers refuse an object with one of these, or take it for a value of a class.
RESERVED_KEYS = frozenset({"__classname__", "__id__", "__type", "__var"})


class SameKeyTwiceError(ValueError):
    """An object has the same key twice, so nobody can say what it means."""


class Unfit:
    """A number that is kept as its text; until it is replaced, it is neither text nor a number."""

    def __init__(self, text: str) -> None:
        self.text = text


def read_json(body: bytes) -> Any:
    """
    Read JSON as it came, but with :class:`Unfit` in place of each number that Airflow cannot carry.

    :raises SameKeyTwiceError: an object has the same key twice.
    :raises ValueError: it is not JSON.
    """
    return json.loads(
        body, parse_int=_whole_number, parse_float=_number, parse_constant=Unfit, object_pairs_hook=_object
    )


def _whole_number(text: str) -> int | Unfit:
    # Python itself refuses to read a number of more than 4,300 digits.
    number = int(text) if len(text) <= 20 else None
    return number if number is not None and SMALLEST <= number <= LARGEST else Unfit(text)


def _number(text: str) -> float | Unfit:
    number = float(text)
    return number if math.isfinite(number) else Unfit(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise SameKeyTwiceError("it has the same key twice in an object")
    return value


def fit_text(text: str) -> str:
    """Return *text* with U+FFFD in place of each character that cannot be encoded or stored."""
    return UNFIT_TEXT.sub(REPLACEMENT, text)


def fit(value: Any, depth: int = 0) -> Any:
    """
    Return *value* as JSON that Airflow can carry; what is fit already is returned as it is.

    Text gets U+FFFD, a number that cannot be carried becomes its text, and so does what is nested too deeply or
    is no JSON at all. A key that means something to Airflow gets U+FFFD before it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return fit_text(str.__str__(value))  # that of an Enum as well
    if isinstance(value, int | float):
        return value if _is_carried(value) else _text_of(value)
    if isinstance(value, dict | list | tuple) and depth < DEEPEST:
        return _fit_object(value, depth) if isinstance(value, dict) else _fit_list(value, depth)
    return _text_of(value)


def _is_carried(value: float) -> bool:
    return SMALLEST <= value <= LARGEST if isinstance(value, int) else math.isfinite(value)


def _fit_list(value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
    items = [fit(item, depth + 1) for item in value]
    same = isinstance(value, list) and all(new is old for new, old in zip(items, value, strict=True))
    return value if same else items  # type: ignore[return-value]


def _fit_object(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    fitted: dict[str, Any] = {}
    for key, item in value.items():
        name = fit_text(key) if isinstance(key, str) else _text_of(key)
        if name in RESERVED_KEYS:
            name = REPLACEMENT + name
        while name in fitted:  # two keys may have become one
            name += REPLACEMENT
        fitted[name] = fit(item, depth + 1)
    same = all(fitted.get(key, REPLACEMENT) is item for key, item in value.items())
    return value if same else fitted


def _text_of(value: Any) -> str:
    if isinstance(value, Unfit):
        return value.text
    if isinstance(value, dict | list | tuple):
        return fit_text(json.dumps(value, default=_text_of, ensure_ascii=False))
    return fit_text(repr(value))
