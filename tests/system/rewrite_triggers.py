"""
Makes the rows of waiting triggers what the first release would have written.

The stored file has that release's class path and arguments, case by case; arguments that came later
are taken out of each row. Runs with Airflow's settings, while no triggerer does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from sqlalchemy import select


def main(cases: dict[str, dict[str, Any]]) -> None:
    """Rewrite all rows."""
    known = {name for case in cases.values() for name in case["arguments"]}
    (class_path,) = {case["trigger"] for case in cases.values()}
    with create_session() as session:
        waiting = session.scalars(select(Trigger)).all()
        if not waiting:
            sys.exit("No trigger waits: there is nothing that could outlive a release.")
        for trigger in waiting:
            trigger.classpath = class_path
            trigger.kwargs = {name: value for name, value in trigger.kwargs.items() if name in known}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
