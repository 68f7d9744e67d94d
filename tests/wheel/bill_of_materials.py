"""
Checks what a registry, a licence scanner and an SBOM are told about the installed package.

``python bill_of_materials.py SBOM.json``: a CycloneDX document made of the environment.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import distribution
from pathlib import Path

NAME = "airflow-provider-anon"


def main(sbom: Path) -> None:
    """Check both."""
    installed = distribution(NAME)
    metadata = installed.metadata
    files = {str(path) for path in installed.files or ()}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"]
    assert "Framework :: Apache Airflow :: Provider" in metadata.get_all("Classifier")
    assert any(path.endswith("licenses/LICENSE") for path in files)
    assert "airflow_anon/py.typed" in files
    assert "airflow_provider_anon/example_dags/anon_wait_for_run.py" in files
    assert not [path for path in files if path.startswith(("tests", "demo", "docs"))]
    (entry,) = installed.entry_points.select(group="apache_airflow_provider")
    provider = entry.load()()
    assert (provider["package-name"], provider["versions"]) == (NAME, [installed.version])

    document = json.loads(sbom.read_text(encoding="utf-8"))
    components = {component["name"]: component for component in document["components"]}
    ours = components[NAME]
    assert ours["version"] == installed.version
    assert {"license": {"id": "Apache-2.0", "acknowledgement": "declared"}} in ours["licenses"], ours[
        "licenses"
    ]
    edges = {edge["ref"]: edge.get("dependsOn", []) for edge in document["dependencies"]}
    needed = {line.partition(">")[0] for line in installed.requires or ()}
    named = {component["bom-ref"]: name for name, component in components.items()}
    assert {named[ref] for ref in edges[ours["bom-ref"]]} == needed
    print(f"{NAME} {installed.version}: complete metadata; a CycloneDX SBOM of {len(components)} components.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
