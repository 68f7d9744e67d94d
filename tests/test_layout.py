"""What holds for the files themselves: where words may stand, what is pinned, and which version is named."""

import ast
import re
from pathlib import Path

import pytest

import airflow_anon
from airflow_anon.runs import WorkflowRunStatus

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(airflow_anon.__file__).parent
MODULES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
STATUS_WORD = re.compile(rf"\b({'|'.join(WorkflowRunStatus)})\b")


def docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.value


@pytest.mark.parametrize("name", [name for name in MODULES if name != "runs.py"])
def test_status_names_are_written_in_runs_only(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    documented = set(docstrings(tree))
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documented
    ]

    assert [text for text in texts if STATUS_WORD.search(text)] == []


@pytest.mark.parametrize("pins", sorted((ROOT / "constraints").glob("*.txt")), ids=lambda pins: pins.stem)
def test_pins_are_names_and_versions_and_not_this_package(pins):
    lines = pins.read_text(encoding="utf-8").splitlines()

    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]*==[\w.+!]+", line) for line in lines)
    assert not any(line.startswith("airflow-provider-anon") for line in lines)
    assert f"apache-airflow=={pins.stem.split('-')[1]}" in lines


def test_the_package_leaves_no_security_rule_out_but_the_one_for_random_numbers():
    ignored = [
        rule
        for path in MODULES.values()
        for rules in re.findall(r"# noqa: ?([A-Z0-9, ]+)", path.read_text(encoding="utf-8"))
        for rule in re.findall(r"\bS\d+", rules)
    ]

    assert set(ignored) == {"S311"}  # pauses are spread at random, which hides nothing


def test_the_changelog_begins_with_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == airflow_anon.__version__
