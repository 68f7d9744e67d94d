"""What Airflow learns about the package, and what importing it costs."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import airflow
import jsonschema
import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

import airflow_anon
from airflow_anon import get_provider_info
from airflow_anon.client.endpoint import EXTRAS
from airflow_anon.hooks import AnonHook
from airflow_anon.links import AnonWorkflowRunLink

PACKAGE = Path(airflow_anon.__file__).parent
MODULES = sorted(
    ".".join(["airflow_anon", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)


def schema(name):
    return json.loads((Path(airflow.__file__).parent / name).read_text())


def form():
    (connection_type,) = get_provider_info()["connection-types"]
    return connection_type


def run_python(code):
    """Run *code* in a process of its own and return what it printed, read as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_airflow_accepts_what_the_package_says_about_itself():
    jsonschema.validate(get_provider_info(), schema("provider_info.schema.json"))


def test_the_package_is_found_by_its_entry_point():
    found = [
        point
        for point in entry_points(group="apache_airflow_provider")
        if point.value.startswith("airflow_anon")
    ]

    assert [point.load()() for point in found] == [get_provider_info()]


@pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")
def test_airflow_offers_the_connection_type():
    providers_manager = import_module("airflow.providers_manager").ProvidersManager()

    assert "airflow-provider-anon" in providers_manager.providers
    hook = providers_manager.hooks["anon"]
    assert (hook.hook_name, hook.connection_type, hook.package_name) == (
        "Anon",
        "anon",
        "airflow-provider-anon",
    )
    assert hook.hook_class_name == "airflow_anon.hooks.AnonHook"


def test_airflow_knows_of_the_link():
    (path,) = get_provider_info()["extra-links"]
    module, _, name = path.rpartition(".")
    providers_manager = import_module("airflow.providers_manager").ProvidersManager()

    assert getattr(import_module(module), name) is AnonWorkflowRunLink
    assert path in providers_manager.extra_links_class_names


@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="Airflow shows no examples of providers before 3.3")
def test_airflow_finds_the_examples_where_it_looks_for_those_of_a_provider(monkeypatch, caplog):
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "True")
    manager = import_module("airflow.dag_processing.bundles.manager").DagBundlesManager()

    folder = manager.get_bundle("airflow-provider-anon-example-dags").path

    assert {path.stem for path in folder.glob("*.py")} >= {"anon_wait_for_run", "anon_zero_worker"}
    assert "Could not load provider module" not in caplog.text


def test_an_example_asks_for_no_provider_but_those_that_the_package_brings():
    folder = PACKAGE.parent / "airflow_provider_anon" / "example_dags"
    imported = {
        node.module
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("airflow")
    }

    assert {name for name in imported if not name.startswith("airflow_anon.")} == {
        "airflow.providers.common.compat.sdk"
    }


def test_the_hook_agrees_with_what_the_package_says():
    module, _, name = form()["hook-class-name"].rpartition(".")

    assert getattr(import_module(module), name) is AnonHook
    assert AnonHook.conn_type == form()["connection-type"]
    assert AnonHook.hook_name == form()["hook-name"]


def test_the_public_defaults_stay_as_they_are():
    assert AnonHook.conn_name_attr == "anon_conn_id"
    assert AnonHook.default_conn_name == "anon_default"
    assert AnonHook().anon_conn_id == "anon_default"
    assert form()["hook-class-name"] == "airflow_anon.hooks.AnonHook"
    for name in ("wait_for_workflow_run", "await_workflow_run"):
        parameters = inspect.signature(getattr(AnonHook, name)).parameters
        assert {
            key: value.default for key, value in parameters.items() if value.default is not value.empty
        } == {
            "poke_interval": 60.0,
            "timeout": 604800.0,
            "exponential_backoff": False,
            "max_wait": None,
            "outage_tolerance": 600.0,
            "user_input_timeout": None,
        }


def test_the_labels_of_the_form_are_valid_and_the_same_for_every_airflow():
    labels = AnonHook.get_ui_field_behaviour()

    jsonschema.validate(labels, schema("customized_form_field_behaviours.schema.json"))
    assert set(labels) == {"hidden_fields", "relabeling", "placeholders"}
    assert labels["relabeling"] == form()["ui-field-behaviour"]["relabeling"]
    assert labels["placeholders"] == form()["ui-field-behaviour"]["placeholders"]


def test_the_form_has_every_field_that_the_connection_knows():
    assert sorted(form()["conn-fields"]) == sorted(EXTRAS)


def should_hide_value_for_key(name):
    for module in (
        "airflow.sdk._shared.secrets_masker",
        "airflow.sdk.execution_time.secrets_masker",
        "airflow.utils.log.secrets_masker",
    ):
        with suppress(ImportError):
            return import_module(module).should_hide_value_for_key(name)
    raise AssertionError("Airflow's masker has moved")


def test_no_field_whose_name_airflow_would_mask_has_a_default():
    masked = {name: field for name, field in form()["conn-fields"].items() if should_hide_value_for_key(name)}

    assert set(masked) <= {"proxy"}
    assert not [name for name, field in masked.items() if "default" in field["schema"]]


def test_the_form_of_older_airflow_has_the_same_fields():
    of_airflow_2 = "the libraries of the old form come with Airflow 2"
    wtforms = pytest.importorskip("wtforms", reason=of_airflow_2)
    pytest.importorskip("flask_appbuilder", reason=of_airflow_2)

    widgets = AnonHook.get_connection_form_widgets()
    bound = type("Form", (wtforms.Form,), dict(widgets))()

    assert list(widgets) == list(form()["conn-fields"])
    for name, field in form()["conn-fields"].items():
        assert (bound[name].label.text, bound[name].description) == (field["label"], field["description"])
        # As wide as Airflow's own fields, not as a browser draws a bare one.
        assert 'class="form-control"' in bound[name]()


@pytest.fixture(scope="module")
def imported():
    """What importing brings along, first what a DAG file imports and then all, where the old form has no libraries."""
    return run_python(f"""
import json, sys, warnings
from importlib import import_module
for name in ("wtforms", "flask_appbuilder", "flask_babel"):
    sys.modules[name] = None
from airflow.providers.common.compat import connection, sdk
sdk.BaseSensorOperator, sdk.BaseOperator, sdk.BaseHook, sdk.PokeReturnValue, sdk.AirflowFailException
before = set(sys.modules)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import airflow_anon.sensors, airflow_anon.operators
    brought = sorted(set(sys.modules) - before)
    for name in {MODULES!r}:
        import_module(name)
labels = sys.modules["airflow_anon.hooks"].AnonHook.get_ui_field_behaviour()
warned = [[warning.filename, str(warning.message)] for warning in caught]
print(json.dumps(dict(brought=brought, labels=labels, warned=warned)))
""")


def test_the_hook_is_imported_without_the_libraries_of_the_old_form(imported):
    assert imported["labels"] == AnonHook.get_ui_field_behaviour()


def test_no_module_uses_anything_deprecated(imported):
    assert not [message for filename, message in imported["warned"] if Path(filename).is_relative_to(PACKAGE)]


def test_what_a_dag_file_imports_brings_no_http_library_along(imported):
    brought = set(imported["brought"])

    assert "airflow_anon.sensors" in brought
    assert not {"requests", "aiohttp", "urllib3", "airflow_anon.client.network"} & brought


def test_importing_the_package_alone_brings_nothing_along():
    brought = run_python(
        "import json, sys\n"
        "before = set(sys.modules)\n"
        "import airflow_anon\n"
        "airflow_anon.get_provider_info()\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )

    assert not [
        name for name in brought if name.partition(".")[0] in {"airflow", "requests", "aiohttp", "pendulum"}
    ]
    assert [name for name in brought if name.startswith("airflow_anon")] == ["airflow_anon"]


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if "simulator" not in path.parts],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_nothing_is_printed(path):
    # What a trigger prints would break the protocol of the triggerer, which is spoken over stdout.
    used = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)

    assert not used & {"print", "stdout", "__stdout__"}
