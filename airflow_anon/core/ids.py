"""Ids of workflow runs: the only place where one is checked."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from airflow_anon.core.errors import AnonInvalidIdError
from airflow_anon.runs import API_PATH, UUID_PATTERN

# What a template makes of an id that is a uuid.UUID, in a list.
UUID_OBJECT = re.compile(r"\bUUID\(('[0-9a-f-]*')\)")


def shown(value: object) -> str:
    """Write a value that is none for a message, not at full length."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def plain(value: Any) -> Any:
    """Return an id that is a :class:`uuid.UUID` as its text, also in a list; anything else as it is."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, UUID) else value


def normalise_id(workflow_run_id: object, name: str = "workflow_run_id") -> str:
    """
    Trim the blanks around an id and check it against the API's pattern.

    :param workflow_run_id: text, or a :class:`uuid.UUID`.
    :param name: what a message calls the value.
    :raises AnonInvalidIdError: the value is no UUID that the API would accept.
    """
    text = plain(workflow_run_id)
    trimmed = text.strip() if isinstance(text, str) else ""
    if not UUID_PATTERN.fullmatch(trimmed):
        hint = " A template that finds nothing renders as None." if trimmed == "None" else ""
        raise AnonInvalidIdError(
            f"{name} {shown(workflow_run_id)} is not the id of a workflow run: the API's ids are UUIDs such as "
            f"3c90c3cc-0d44-4b50-8888-8dd25736052a.{hint}",
        )
    return trimmed


def read_ids(value: object) -> list[str]:
    """
    Read the ids of many runs: a list of them, or a text that a template made of one.

    :raises AnonInvalidIdError: it is neither, or one of them is not an id.
    """
    listed_ids = _parsed(value) if isinstance(value, str) else value
    if not isinstance(listed_ids, Sequence) or isinstance(listed_ids, str | bytes):
        raise AnonInvalidIdError(
            f"workflow_run_ids must be a list of ids, not {shown(value)}. {_advice(value)}"
        )
    return [normalise_id(item, f"workflow_run_ids[{number}]") for number, item in enumerate(listed_ids)]


def _parsed(text: str) -> object:
    plain_text = UUID_OBJECT.sub(r"\1", text.strip())
    for read in (json.loads, ast.literal_eval):
        try:
            return read(plain_text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _advice(value: object) -> str:
    try:
        normalise_id(value)
    except AnonInvalidIdError:
        return "Give it a list, the output of a task that returns one, or a template that renders to one."
    return "For a single run write it in brackets, or use AnonWorkflowRunSensor with workflow_run_id."


def path_of(workflow_run_id: str) -> str:
    """Return the path of a run, whose id has been checked."""
    return f"{API_PATH}/workflow-runs/{workflow_run_id}"
