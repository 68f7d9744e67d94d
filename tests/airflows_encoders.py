"""What Airflow does with what it is handed: its own encoders, one after the other."""

from __future__ import annotations

import json
from typing import Any

from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_2_PLUS

if AIRFLOW_V_3_2_PLUS:
    from airflow.sdk.serde import deserialize, serialize
else:
    from airflow.serialization.serde import deserialize, serialize
if AIRFLOW_V_3_0_PLUS:
    from airflow.sdk.execution_time.comms import _RequestFrame


def carried(value: Any) -> Any:
    """
    Return a value as Airflow hands it on: through its serialiser, its frames between processes, and JSON.

    PostgreSQL's JSON refuses U+0000, and so does this. What raises here ends a task there, or a triggerer.
    """
    serialized = serialize(value)
    if AIRFLOW_V_3_0_PLUS:
        _RequestFrame(id=1, body={"value": serialized}).as_bytes()
    text = json.dumps(serialized, allow_nan=False, ensure_ascii=False).encode("utf-8").decode("utf-8")
    assert "\\u0000" not in text.replace("\\\\", "")
    return deserialize(json.loads(text))
