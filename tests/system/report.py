"""The result of the system tests: a table to read, and the same as JSON."""

from __future__ import annotations

import json
from statistics import median
from typing import TYPE_CHECKING, Any

from excuses import CAUSES

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = {
    "waits": "waits",
    "lost": "lost",
    "false_green": "false green",
    "false_red": "false red",
    "other_state": "other state",
    "wrong_xcom": "wrong XCom",
    "wrong_read": "wrong read",
    "too_early": "too early",
    "too_late": "too late",
    "retried": "retried",
    "worker_starts": "worker starts",
    "needless_starts": "needless",
    "miscounted_starts": "miscounted",
    "delay_median": "delay: median",
    "delay_longest": "longest",
}
PEER = "http_sensor"


def write(path: Path, results: list[dict[str, Any]], **facts: Any) -> None:
    """Write everything as JSON."""
    content = {**facts, "results": results, "ratios": ratios(results)}
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def summary(results: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Return the tables."""
    width = max((len(result["scenario"]) for result in results), default=0)
    lines = ["", "  ".join(["".ljust(width), *COLUMNS.values()])]
    for result in results:
        cells = [_shown(result[name]).rjust(len(title)) for name, title in COLUMNS.items()]
        lines.append("  ".join([result["scenario"].ljust(width), *cells]))
    for kind, figures in ratios(results).items():
        lines.append(
            f"{kind}: {figures['cpu_per_wait'] * 1000:.0f} ms of CPU for a wait ({_times(figures['cpu_ratio'])} the peer's), "
            f"{figures['worker_starts_per_wait']:g} worker starts, ends {figures['lag']:.2f} s "
            f"after the poll that saw the end ({_times(figures['lag_ratio'])} the peer's)"
        )
    lines += [_told(window) for window in facts.get("windows", ())]
    lines += [_excused(cause, count) for cause, count in facts.get("excuses", {}).items()]
    lines += [f"gave up: {what}" for what in facts.get("gave_up", ())]
    lines += [f"raised in a triggerer: {line}" for line in facts.get("our_frames", ())[:5]]
    return "\n".join(lines)


def _excused(cause: str, count: dict[str, int]) -> str:
    too_many = "" if count["tries"] <= count["at_most"] else ": TOO MANY"
    return (
        f"excused: {count['tries']} of at most {count['at_most']} tries, where each {CAUSES[cause]}{too_many}"
    )


def _told(window: dict[str, Any]) -> str:
    return (
        f"{window['name']}: {window['seconds']:.0f} s, {window['waits']} waits, {window['in_triggerer']} in triggerers; "
        f"{_shown(window['requests'])} requests, {_shown(window['by_triggerer'])} by triggerers, at most "
        f"{_shown(window['second'])} in a second; for each wait {for_each_wait(window)}"
        + ("" if window["good"] else f", more than {window['bound']}")
    )


def for_each_wait(window: dict[str, Any]) -> str:
    """Return how many requests a window had for each wait, and how they were counted."""
    most = "-" if window["most"] is None else f"{window['most']:.2f}"
    return f"{most} {window['counted']}"


def ratios(results: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Return the medians of what a wait of each kind costs, and the same over the peer's."""
    kinds = {result["kind"]: {} for result in results if "kind" in result}
    for kind, figures in kinds.items():
        mine = [result for result in results if result.get("kind") == kind]
        figures["cpu_per_wait"] = median(result["cpu_per_wait"] for result in mine)
        figures["worker_starts_per_wait"] = median(
            result["worker_starts"] / result["waits"] for result in mine
        )
        figures["lag"] = median(result["lag_mean"] or 0.0 for result in mine)
    for figures in kinds.values():
        for name, key in (("cpu_ratio", "cpu_per_wait"), ("lag_ratio", "lag")):
            figures[name] = figures[key] / kinds[PEER][key] if PEER in kinds else None
    return kinds


def _shown(value: Any) -> str:
    return f"{value:.1f} s" if isinstance(value, float) else str("-" if value is None else value)


def _times(ratio: float | None) -> str:
    return "?" if ratio is None else f"{ratio:.2f} times"
