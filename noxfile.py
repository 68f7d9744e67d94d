"""The checks, each in an environment of its own; and the one table of Airflow lines that they run on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

MATRIX = {"2.11.2": "3.10", "3.0.6": "3.12", "3.1.8": "3.13", "3.2.2": "3.12", "3.3.2": "3.11"}
OLDEST, MAIN = "2.11.2", "3.3.2"
# What an old Airflow must be kept from. From 0.132 on, FastAPI refuses what 3.0 sends to itself; from 0.137 on,
# it does not start what dag.test() of 3.2 asks; and svcs 26 takes the services away that it asks for.
LIMITS = {"3.0.6": ["fastapi<0.132"], "3.2.2": ["fastapi<0.137", "svcs<26"]}
# What of an installed package came out of the archive: the names of the files and what is in them.
FILES = """
from importlib.metadata import files
ours = [path for path in files("airflow-provider-anon") if path.parts[0] in ("airflow_anon", "airflow_provider_anon") and path.hash]
print(sorted((str(path), path.hash.value) for path in ours))
"""
OPENLINEAGE = "apache-airflow-providers-openlineage==2.20.3"
PYTHONS_OF_MAIN = ("3.10", "3.11", "3.12", "3.13")

os.environ.setdefault("UV_SYSTEM_CERTS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as the Makefile does, and for its reason
nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["docs", "tests"]


def interpreter(version: str) -> str:
    """Return a Python that runs: the one of this name, or one of pyenv's, which its shims may refuse to start."""
    name = f"python{version}"
    if (
        shutil.which(name)
        and subprocess.run([name, "-c", ""], capture_output=True, check=False).returncode == 0
    ):
        return name
    if pyenv := shutil.which("pyenv"):
        told = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip()
        for root in (Path(told), Path(pyenv).resolve().parent.parent):
            for path in sorted(root.glob(f"versions/{version}.*/bin/python")):
                return str(path)
    return version


def pins(airflow: str, python: str) -> str:
    """Return the file of pins of a line."""
    return f"constraints/airflow-{airflow}-py{python}.txt"


def install(session: nox.Session, *groups: str, airflow: str = MAIN) -> None:
    """Install the package, editable, and groups of tools, all as pinned."""
    wanted = [word for group in groups for word in ("--group", group)]
    session.install("-c", pins(airflow, MATRIX[airflow]), "-e", ".", *wanted)


@nox.session
@nox.parametrize(
    ("python", "airflow"),
    [(interpreter(python), airflow) for airflow, python in MATRIX.items()],
    ids=list(MATRIX),
)
def tests(session: nox.Session, airflow: str) -> None:
    """Run the suite, or the tests named after ``--``, on one line of Airflow."""
    install(session, "test", airflow=airflow)
    session.run("pytest", *session.posargs)


@nox.session(venv_backend="none")
def between(session: nox.Session) -> None:
    """Run the core, every mode, and a DAG in each mode, on the lines of Airflow between the oldest and the newest."""
    in_each_mode = "test_the_link_is_there_while_a_task_waits_and_when_it_is_over"
    paths = (
        "tests/test_provider.py",
        "tests/core",
        "tests/test_waiting.py",
        f"tests/test_links.py::{in_each_mode}",
    )
    lines = (f"tests({airflow})" for airflow in MATRIX if airflow not in {OLDEST, MAIN})
    session.run(sys.executable, "-m", "nox", "-s", *lines, "--", *paths)


@nox.session(venv_backend="none")
def system(session: nox.Session) -> None:
    """Let waits take place in a real Airflow with PostgreSQL; ``-- --full`` for the whole size."""
    session.run(
        sys.executable, "tests/system/run.py", "--result", ".nox/system-result.json", *session.posargs
    )


@nox.session(venv_backend="none")
def reliability(session: nox.Session) -> None:
    """Write ``docs/reliability.md`` from the last ``make test-system``."""
    session.run(sys.executable, "tests/system/reliability.py", ".nox/test-system-result.json")


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Measure ours beside other providers, and write ``benchmarks/RESULTS.md``."""
    session.run(sys.executable, "benchmarks/run.py", *session.posargs)


@nox.session(python=interpreter(MATRIX[MAIN]))
def fuzz(session: nox.Session) -> None:
    """Draw many new cases for the property tests, which may take an hour; a find becomes an ``@example``."""
    install(session, "test")
    options = ("--hypothesis-profile=fuzz", "-m", "hypothesis", "-o", "timeout=0", "-n", "2")
    session.run("pytest", *options, *session.posargs)


@nox.session(python=interpreter(MATRIX[OLDEST]))
def browser(session: nox.Session) -> None:
    """Test the connection form in the pages of the oldest Airflow; ``make browser`` tests all in the newest."""
    install(session, "test", "browser", airflow=OLDEST)
    session.run("pytest", "tests/browser/test_connection_form.py", env={"BROWSER_TESTS": "required"})


@nox.session(python=interpreter(MATRIX[MAIN]))
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, "docs")
    options = ("-q", "-W", "-n", "--keep-going", "-d", "docs/_build/doctrees")
    session.run("sphinx-build", *options, "docs", "docs/_build/html")


@nox.session(python=interpreter(MATRIX[MAIN]))
def judges(session: nox.Session) -> None:
    """Let others judge: Schemathesis, Prism, and a gateway of nginx behind tinyproxy."""
    session.run("python", "tests/judges/programs.py")
    install(session, "test", "judge")
    session.run("pytest", "tests/judges", *session.posargs)


@nox.session(python=interpreter(MATRIX[MAIN]))
def real(session: nox.Session) -> None:
    """Let a real Airflow judge, with what its users have: listeners, trigger queues, PostgreSQL, OpenLineage."""
    install(session, "test", "system")
    variants = {"AIRFLOW_ANON_REAL": "examples listener queues postgres"}
    session.run("pytest", "tests/real", *session.posargs, env=variants)
    # Not before: it is a listener too.
    session.install("-c", pins(MAIN, MATRIX[MAIN]), OPENLINEAGE)
    session.run("pytest", "tests/real", *session.posargs, env={"AIRFLOW_ANON_REAL": "openlineage"})


@nox.session(python=interpreter(MATRIX[MAIN]))
def mutants(session: nox.Session) -> None:
    """Make the core wrong in a thousand ways, in a copy, and report those that no test sees."""
    install(session, "test", "mutation")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("airflow_anon", "tests"):
            shutil.copytree(name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(name, folder)
        session.chdir(folder)
        # A file that changes twice in a second is not told apart from its bytecode.
        env = {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        session.run("cosmic-ray", "init", "tests/mutants.toml", "mutants.sqlite")
        session.run("cr-filter-operators", "mutants.sqlite", "tests/mutants.toml")
        session.run("cosmic-ray", "exec", "tests/mutants.toml", "mutants.sqlite", env=env)
        session.run("cr-report", "--surviving-only", "--show-diff", "mutants.sqlite")


@nox.session(python=interpreter(MATRIX[MAIN]))
def build(session: nox.Session) -> None:
    """Build wheel and sdist into ``dist/`` and check them."""
    session.install("-c", pins(MAIN, MATRIX[MAIN]), "build", "check-wheel-contents", "twine")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", silent=True)
    files = sorted(str(path) for path in Path("dist").iterdir())
    session.run("twine", "check", "--strict", *files)
    session.run("check-wheel-contents", *(path for path in files if path.endswith(".whl")))


@nox.session(python=interpreter(MATRIX[MAIN]), requires=["build"])
def wheel(session: nox.Session) -> None:
    """Install what was built beside Airflow alone; from there poll in every mode, check types, make an SBOM."""
    pinned = str(Path(pins(MAIN, MATRIX[MAIN])).resolve())
    session.install("-c", pinned, "cyclonedx-bom", "mypy", "uv")
    (built,), (source,) = (list(Path("dist").resolve().glob(kind)) for kind in ("*.whl", "*.tar.gz"))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree("tests/wheel", folder, dirs_exist_ok=True)
        for name in ("local_airflow.py", "loopback.py"):
            shutil.copy(f"demo/{name}", folder)
        session.chdir(folder)
        session.run("python", "-m", "venv", "--without-pip", "bare")
        python = str(Path(folder, "bare", "bin", "python"))
        put = ("uv", "pip", "install", "-q", "--python", python)
        session.run(*put, "-c", pinned, f"apache-airflow=={MAIN}", str(source))
        from_source = session.run(python, "-c", FILES, external=True, silent=True)
        session.run(*put, "--no-deps", "--reinstall", str(built))
        if session.run(python, "-c", FILES, external=True, silent=True) != from_source:
            session.error("The wheel and the sdist do not install the same files.")
        session.run("cyclonedx-py", "environment", python, "-o", "sbom.json")
        session.run(python, "bill_of_materials.py", "sbom.json", external=True)
        session.run("mypy", "--strict", "--config-file=", "--python-executable", python, "dags/every_mode.py")
        session.run(python, "stock_airflow.py", external=True)
        session.run(python, "poll_in_every_mode.py", "dags", external=True)


@nox.session(python=interpreter(MATRIX[MAIN]))
def audit(session: nox.Session) -> None:
    """Ask for known vulnerabilities of what the package is tested with, where there is somebody to ask."""
    session.install("-c", pins(MAIN, MATRIX[MAIN]), "pip-audit")
    session.run("python", "tests/wheel/vulnerabilities.py", pins(MAIN, MATRIX[MAIN]))


@nox.session(python=interpreter(MATRIX[MAIN]))
def constraints(session: nox.Session) -> None:
    """Write a file of pins for each line: the newest releases that go together, as names and versions only."""
    session.install("uv")
    lines = {(airflow, python): ["test"] for airflow, python in MATRIX.items() if airflow != MAIN}
    lines[OLDEST, MATRIX[OLDEST]] += ["browser"]
    lines |= {
        (MAIN, python): ["test", "check", "audit", "browser", "docs", "judge", "mutation", "system"]
        for python in PYTHONS_OF_MAIN
    }
    Path("constraints").mkdir(exist_ok=True)
    for (airflow, python), groups in lines.items():
        with tempfile.TemporaryDirectory() as folder:
            line = Path(folder, "line.txt")
            limits = [f"apache-airflow=={airflow}", *LIMITS.get(airflow, [])]
            line.write_text("\n".join(limits), encoding="utf-8")
            session.run(
                *("uv", "pip", "compile", "--quiet", "pyproject.toml", "--constraints", str(line)),
                *(word for group in groups for word in ("--group", group)),
                *("--python-version", python, "--upgrade", "--no-header", "--no-annotate"),
                *("--no-emit-index-url", "--no-emit-find-links", "--output-file", pins(airflow, python)),
            )
