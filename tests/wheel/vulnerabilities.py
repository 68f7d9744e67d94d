"""
Asks pip-audit for known vulnerabilities of a file of pins; ends with 1 if there are any.

Where nobody can be asked, it says so and ends well. A mirror of the package index may answer and
know of no vulnerability at all, so a release that is known to have one is asked for first.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

KNOWN_TO_BE_VULNERABLE = "jinja2==3.1.2"
SERVICES = ("pypi", "osv")


def main(pins: Path) -> int:
    """Ask the first service that can be relied on."""
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder, "known.txt")
        known.write_text(KNOWN_TO_BE_VULNERABLE)
        service = next((name for name in SERVICES if vulnerable(ask(name, known))), None)
    if service is None:
        print(f"NOT AUDITED: neither of {', '.join(SERVICES)} can be asked for vulnerabilities from here.")
        return 0
    answers = ask(service, pins)
    found, skipped = vulnerable(answers), [one["name"] for one in answers if "skip_reason" in one]
    print(f"{service} was asked about {len(answers)} packages; not audited: {', '.join(skipped) or 'none'}.")
    for name, ids in found.items():
        print(f"{name}: {', '.join(ids)}")
    return 1 if found or not answers else 0


def ask(service: str, pins: Path) -> list[dict[str, Any]]:
    """Return what a service says of each package, or nothing if it cannot be asked."""
    command = ["pip-audit", "-s", service, "-r", str(pins), "--no-deps", "--disable-pip", "-f", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answers: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return []
    return answers


def vulnerable(answers: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the ids of the vulnerabilities of each package that has any."""
    return {
        f"{one['name']} {one['version']}": [flaw["id"] for flaw in one["vulns"]]
        for one in answers
        if one.get("vulns")
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
