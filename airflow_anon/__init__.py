"""Wait for Anon workflow runs in Apache Airflow."""

from __future__ import annotations

from typing import Any

__version__ = "1.0.0"


def _field(label: str, description: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"]}}


def get_provider_info() -> dict[str, Any]:
    """Tell Airflow what is in this package; the form of the connection is declared here, once."""
    return {
        "package-name": "airflow-provider-anon",
        "name": "Anon",
        "description": "Wait for Anon workflow runs.",
        "versions": [__version__],
        "connection-types": [
            {
                "connection-type": "anon",
                "hook-class-name": "airflow_anon.hooks.AnonHook",
                "hook-name": "Anon",
                "ui-field-behaviour": {
                    "hidden-fields": [],
                    "relabeling": {
                        "host": "Host",
                        "schema": "Scheme",
                        "login": "Login (only for Basic)",
                        "password": "Token",
                    },
                    "placeholders": {
                        "host": "worker.anon.com",
                        "schema": "https",
                        "port": "443 (Airflow 3.3 tests no connection without a port)",
                        "login": "leave empty to send the token as Bearer",
                        "password": "the API token; with a login, its password",
                    },
                },
                "conn-fields": {
                    "timeout": _field("Timeout", "Seconds for one request in all; 30 if empty."),
                    "verify": _field(
                        "Verify TLS", "true, false, or the path of a CA file or folder; true if empty."
                    ),
                    "verify_strict": _field(
                        "Verify strictly",
                        "true or false: whether certificates keep all rules; true if empty.",
                    ),
                    "client_cert": _field("Client certificate", "Path of a PEM file, for mutual TLS."),
                    "client_key": _field("Client key", "Path of its PEM key, if that is a file of its own."),
                    "proxy": _field(
                        "Proxy", "Such as http://proxy.example:3128; the environment's if empty."
                    ),
                    "credential_header": _field(
                        "Credential header", "HTTP header that carries the token; Authorization if empty."
                    ),
                    "credential_scheme": _field(
                        "Credential scheme",
                        "Stands before the token; if empty, Bearer in Authorization and nothing in another header.",
                    ),
                    "headers": _field(
                        "Headers", 'Further headers as a JSON object, such as {"X-Tenant": "blue"}.'
                    ),
                    "max_connections": _field(
                        "Max connections", "TCP connections that a triggerer opens at most; 100 if empty."
                    ),
                    "max_requests_per_second": _field(
                        "Max requests per second", "All waits of a triggerer together; no limit if empty."
                    ),
                    "run_url_template": _field(
                        "Run URL template",
                        "Where a run is seen, such as https://app.example/runs/{id}; {workflow_id} works too.",
                    ),
                },
            }
        ],
        "extra-links": ["airflow_anon.links.AnonWorkflowRunLink"],
    }
