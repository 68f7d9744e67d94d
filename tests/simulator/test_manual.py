"""The page about the simulator tells the truth."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from airflow_anon.simulator import Simulator
from airflow_anon.simulator.scripts import FAULT_WORDS, parse_faults, parse_script

MANUAL = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
FAULT_TABLE = MANUAL.partition("| fault |")[2].partition("\n\n")[0]
NAMES_TABLE = MANUAL.partition("| it can be asked |")[2].partition("\n\n")[0]


@pytest.mark.parametrize(
    "script",
    [
        *re.findall(r'create_run\("([^"]+)"\)', MANUAL),
        *re.findall(r'--run "([^"]+)"', MANUAL),
        *re.findall(r"^(MISSING .*)$", MANUAL, re.MULTILINE),
    ],
)
def test_its_scripts_can_be_read(script: str) -> None:
    assert parse_script(script)


def test_its_faults_can_be_read_and_none_is_left_out() -> None:
    cells = [line.split("|")[1] for line in FAULT_TABLE.splitlines() if line.startswith("| `")]
    faults = [parse_faults(text)[0].kind for cell in cells for text in re.findall(r"`([^`]+)`", cell)]

    assert set(FAULT_WORDS.values()) <= set(faults)


def test_its_wishes_are_json() -> None:
    wishes = [json.loads(wish) for wish in re.findall(r"-d '([^']+)'", MANUAL)]

    assert all(parse_faults(wish["faults"]) for wish in wishes if "faults" in wish)
    assert all(parse_script(wish["script"]) for wish in wishes if "script" in wish)


def test_it_names_all_that_a_simulator_can_be_asked_and_sent() -> None:
    named = set(re.findall(r"`(\w+)", NAMES_TABLE)) | {"clock", "start", "stop"}
    public = {name for name in vars(Simulator) if not name.startswith("_")}

    assert public - named == set()
    assert named - {"clock"} <= public
