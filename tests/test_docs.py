"""
The documentation tells the truth: each snippet in it is run.

A comment right before a snippet may say ``not run`` and why, which module it ``needs``, what the ``run`` that
it waits for goes through, and how its DAG ``ends``.
"""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from airflow.models import DagBag
from snippets import PAGES, ROOT, SNIPPETS

import airflow_anon
from airflow_anon.client.endpoint import Endpoint
from airflow_anon.client.timer import coalesced_sleep
from airflow_anon.hooks import AnonHook
from airflow_anon.runs import WorkflowRun
from airflow_anon.simulator import Simulator, pytest_plugin

# Found by its entry point where the package is installed, by this line where it is not.
anon_simulator = pytest_plugin.anon_simulator

LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\((?!https?:)([^()\s]+)\)")
UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
NO_CODE = {"", "text"}
SHORTEST_REASON = 10
CONTRIBUTING = ROOT.joinpath("CONTRIBUTING.md").read_text(encoding="utf-8")
STRICT_CURL = 'curl() { command curl -sS --fail-with-body --noproxy "*" "$@"; }'


@pytest.fixture
def _hurried(monkeypatch, hurried_airflow):
    """Let no pause last, nor Airflow wait long before it starts a rescheduled sensor again."""
    monkeypatch.setattr("airflow_anon.core.policy.SHORTEST_PAUSE", 0.02)
    monkeypatch.setattr("airflow_anon.core.policy.WaitPolicy.interval", lambda policy, now: 0.02)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))
    monkeypatch.setattr(
        "airflow_anon.client.aiohttp_client.coalesced_sleep",
        lambda seconds: coalesced_sleep(min(seconds, 0.02)),
    )


def run_python(snippet, request):
    request.getfixturevalue("_hurried")
    if "def test_" in snippet.code:
        run_tests(snippet, request)
    elif is_dag(snippet):
        run_dag(snippet, request)
    else:
        request.getfixturevalue("anon_simulator")
        runpy.run_path(str(written(snippet, request.getfixturevalue("tmp_path"))))


def is_dag(snippet):
    return snippet.language == "python" and re.search(r"^(?:with DAG|@dag)\(", snippet.code, re.MULTILINE)


def run_tests(snippet, request):
    folder = request.getfixturevalue("database")
    monkeypatch = request.getfixturevalue("monkeypatch")
    # The tests of the pages are tests of the DAG that the README begins with.
    dag_file = next(other.code for other in SNIPPETS if other.page == "README.md" and is_dag(other))
    folder.joinpath("my_dags.py").write_text(
        dag_file.replace("\ninvoices()", "\ndag = invoices()"), encoding="utf-8"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_dags", raising=False)
    names = runpy.run_path(str(written(snippet, folder)))
    tests = [test for name, test in names.items() if name.startswith("test_")]

    assert tests
    for test in tests:
        test(**{name: request.getfixturevalue(name) for name in inspect.signature(test).parameters})


def run_dag(snippet, request):
    folder = request.getfixturevalue("database")
    simulator = request.getfixturevalue("anon_simulator")
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_ANON_HTTP", as_http(simulator))
    script = snippet.notes.get("run", "PENDING 1 polls, COMPLETED")
    ids = [simulator.create_run(script, run_id) for run_id in dict.fromkeys(UUID.findall(snippet.code))]
    ids = ids or [simulator.create_run(script), simulator.create_run(script)]
    bag = DagBag(str(written(snippet, folder)))

    assert bag.import_errors == {}
    assert bag.dags
    for dag in bag.dags.values():
        dag_run = dag.test(run_conf={"workflow_run_id": ids[0], "workflow_run_ids": ids})
        assert str(dag_run.state) == snippet.notes.get("ends", "success")
    assert simulator.requests


def as_http(simulator):
    """The connection as those have it who come from another provider."""
    fields = json.loads(simulator.connection())
    credential = {"Authorization": f"Bearer {fields.pop('password')}"}
    return json.dumps({**fields, "conn_type": "http", "extra": credential})


def written(snippet, folder):
    path = Path(folder, f"{snippet.page.removesuffix('.md').replace('-', '_').lower()}_{snippet.line}.py")
    path.write_text(snippet.code, encoding="utf-8")
    return path


def run_shell(snippet, request):
    if "curl" in snippet.code and not shutil.which("curl"):
        pytest.skip("there is no curl")
    folder = request.getfixturevalue("tmp_path")
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "TOKEN": "let-me-in",
    }
    if re.search(r"^airflow ", snippet.code, re.MULTILINE):
        request.getfixturevalue("database")
        environment["AIRFLOW_HOME"] = str(folder)
        dags = folder / "dags"
        dags.mkdir()
        environment["AIRFLOW__CORE__DAGS_FOLDER"] = str(dags)
        for database in Path(os.environ["AIRFLOW_HOME"]).glob("*.db"):
            shutil.copy(database, folder)
        for other in SNIPPETS:
            if other.page == snippet.page and is_dag(other):
                written(other, dags)
    with Simulator() as simulator:
        run = snippet.notes.get("run", "AWAITING_USER_INPUT until answered, COMPLETED")
        lines = [runnable(line, simulator, run) for line in snippet.code.splitlines()]
        script = "\n".join(["set -euo pipefail", STRICT_CURL, *lines])
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    assert done.returncode == 0, done.stdout + done.stderr


def runnable(line, simulator, run):
    """Make a line end by itself, and find what it names: the simulator's port, a run, a target of make, a session of nox."""
    if line.startswith("make "):
        target = line.split()[1]
        return f"grep -q '^{target}:' {ROOT / 'Makefile'}"
    if line.startswith(".venv/bin/nox -s "):
        return f"grep -q '^def {line.split()[2]}(' {ROOT / 'noxfile.py'}"
    if line.startswith("python -m airflow_anon.simulator"):
        return f"{line} --port 0 --serve-for 0.1"
    line = line.replace("8099", str(simulator.port))
    return re.sub(r"\bID\b", simulator.create_run(run), line)


def run_json(snippet, request):
    assert WorkflowRun.from_payload(json.loads(snippet.code)).succeeded


RUNNERS = {"python": run_python, "sh": run_shell, "json": run_json}


@pytest.mark.unmeasured
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "snippet",
    [it for it in SNIPPETS if it.language in RUNNERS and "not run" not in it.notes],
    ids=str,
)
def test_the_snippet_works(snippet, request):
    if "needs" in snippet.notes:
        pytest.importorskip(snippet.notes["needs"])

    RUNNERS[snippet.language](snippet, request)


@pytest.mark.parametrize("snippet", [it for it in SNIPPETS if it.language not in NO_CODE], ids=str)
def test_what_is_not_run_says_why(snippet):
    is_run = snippet.language in RUNNERS and "not run" not in snippet.notes

    assert is_run or len(snippet.notes.get("not run", "")) >= SHORTEST_REASON


@pytest.mark.parametrize("snippet", [it for it in SNIPPETS if it.language == "python"], ids=str)
def test_python_is_python(snippet):
    assert compile(snippet.code, str(snippet), "exec", dont_inherit=True)


def test_notes_are_known():
    notes = {note for snippet in SNIPPETS for note in snippet.notes}

    assert notes <= {"not run", "needs", "run", "ends"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_snippet_is_overlooked(page):
    fences = re.findall(r"^ *`{3,}", page.read_text(encoding="utf-8"), re.MULTILINE)
    directives = re.findall(r"^ *`{3,}\{", page.read_text(encoding="utf-8"), re.MULTILINE)
    found = [snippet for snippet in SNIPPETS if snippet.page == page.name]

    assert len(fences) == 2 * (len(found) + len(directives))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_has_a_text_and_leads_somewhere(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))

    assert [target for text, target in links if not text] == []
    assert [target for _, target in links if not leads_somewhere(page, target)] == []


def leads_somewhere(page, target):
    path, _, heading = target.partition("#")
    found = page.parent / path
    return found.exists() and (not heading or heading in headings_of(found))


def headings_of(page):
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_included_is_a_link_as_well(page):
    text = page.read_text(encoding="utf-8")
    included = re.findall(r"^```\{(?:literal)?include\} (\S+)$", text, re.MULTILINE)
    linked = {target.partition("#")[0] for _, target in LINK.findall(text)}

    assert set(included) <= linked


def test_pictures_are_as_drawn():
    pictures = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["PICTURES"]

    assert {name: ROOT.joinpath("docs", "images", name).read_text(encoding="utf-8") for name in pictures} == {
        name: draw() for name, draw in pictures.items()
    }


def rows_below(page, header):
    table = ROOT.joinpath("docs", page).read_text(encoding="utf-8").partition(header)[2].partition("\n\n")[0]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]


@pytest.mark.parametrize("row", rows_below("connection.md", "| `host` | `schema`, `port` |"), ids=str)
def test_spellings_of_a_host_are_the_same(row):
    host, schema = (cell.strip("`") for cell in row)

    assert Endpoint.from_connection("blue", host=host, schema=schema).base_url == "https://anon.example"


@pytest.mark.parametrize("row", rows_below("connection.md", "| `login` | `password` |"), ids=str)
def test_the_credential_is_sent_as_told(row):
    login, password, extra, sent = (cell.strip("`") for cell in row)
    name, _, value = sent.partition(": ")
    headers = Endpoint.from_connection("blue", login=login, password=password, extra=f"{{{extra}}}").headers

    assert headers.get(name) == (value or None)
    assert len(headers) == 4 + bool(value)


@pytest.mark.parametrize("row", rows_below("connection.md", "| URI | address |"), ids=str)
def test_a_uri_leads_to_its_address(row, monkeypatch):
    uri, address = (cell.strip("`") for cell in row)
    monkeypatch.setenv("AIRFLOW_CONN_ANON_DEFAULT", uri)
    endpoint = AnonHook().endpoint()

    assert endpoint.base_url == address
    assert endpoint.headers["Authorization"] == "Bearer abc"


def test_the_figures_of_a_triggerer_are_those_that_were_measured():
    results = ROOT.joinpath("benchmarks/RESULTS.md").read_text(encoding="utf-8")
    share, memory = (
        float(re.search(rf"^\| 10,000 waits every 60 s, {what} \| ([\d.]+)", results, re.MULTILINE)[1])
        for what in ("share of a core", "memory")
    )
    told = f"10,000 that poll once a minute take {share:.1f} % of a core and {memory:.0f} MB"

    assert told in ROOT.joinpath("docs/deployment.md").read_text(encoding="utf-8")


def test_each_deviation_of_a_version_names_tests_that_there_are():
    rows = rows_below("waiting.md", "| what is different | on Airflow | shown by |")
    named = [re.findall(r"`(test_\w+)`", row[-1]) for row in rows]
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))

    assert all(named)
    assert [name for names in named for name in names if f"def {name}(" not in tests] == []


def public():
    for module in pkgutil.walk_packages(airflow_anon.__path__, "airflow_anon."):
        for name, value in vars(import_module(module.name)).items():
            if callable(value) and re.match("Anon|WorkflowRun|anon_", name):
                home = (
                    value.__module__ if inspect.isclass(value) or inspect.isfunction(value) else module.name
                )
                yield home, name


@pytest.mark.parametrize(("module", "name"), sorted(set(public())))
def test_the_reference_has_all_that_is_public(module, name):
    reference = ROOT.joinpath("docs/reference.md").read_text(encoding="utf-8")

    assert f"automodule:: {module}\n" in reference or f".{name}\n" in reference


def test_contributors_find_the_rooms_in_the_order_of_their_imports():
    project = ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r"^layers = \[\n(.+?)^\]", project, re.MULTILINE | re.DOTALL)[1].splitlines()
    level_of = {name: level for level, layer in enumerate(layers) for name in re.findall(r"\w+", layer)}
    table = CONTRIBUTING.partition("| room | job |")[2].partition("\n\n")[0]
    listed = re.findall(r"`(\w+)(?:\.py|/)`", table)

    assert sorted(listed) == sorted(level_of)
    assert listed == sorted(listed, key=level_of.get)


def test_each_command_is_known_to_readers_or_contributors():
    commands = re.findall(
        r"^([\w-]+):.*##", ROOT.joinpath("Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    told = set(
        re.findall(r"make ([\w-]+)", ROOT.joinpath("README.md").read_text(encoding="utf-8") + CONTRIBUTING)
    )

    assert commands
    assert [name for name in commands if name not in told] == []
