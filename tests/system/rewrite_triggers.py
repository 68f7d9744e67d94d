"""
Makes the rows of waiting triggers what the first release would have written.

The stored file says which class path and which arguments that release knew; arguments that came
later are taken out of each row. Runs with Airflow's settings, while no triggerer does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from sqlalchemy import select


def main(stored: dict[str, object]) -> None:
    """Rewrite all rows."""
    known = set(stored["kwargs"])
    with create_session() as session:
        for trigger in session.scalars(select(Trigger)):
            trigger.classpath = stored["classpath"]
            trigger.kwargs = {name: value for name, value in trigger.kwargs.items() if name in known}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
