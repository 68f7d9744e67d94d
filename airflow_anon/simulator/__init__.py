"""A local Anon API for demos and tests: no account, no network, runs that follow scripts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_anon.simulator.clock import Clock, MovableClock
    from airflow_anon.simulator.threaded import Simulator

__all__ = ["Clock", "MovableClock", "Simulator"]

HOMES = {"Clock": "clock", "MovableClock": "clock", "Simulator": "threaded"}


def __getattr__(name: str) -> Any:
    # pytest imports this package in every session for the plugin's sake, which must cost nothing.
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
