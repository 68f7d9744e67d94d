"""How Sphinx builds the documentation; ``make docs`` calls it. Nothing is fetched."""

from __future__ import annotations

import os
import re
import tempfile

# The reference is read from the package, which loads Airflow, which writes its settings somewhere.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-anon-docs-"))

from sphinx.application import Sphinx

from airflow_anon import __version__

project = "airflow-provider-anon"
version = release = __version__
author = "the authors of airflow-provider-anon"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"airflow-provider-anon {__version__}"
html_copy_source = False
html_show_copyright = False

# What is quoted here from a log is searched for as it is written there: straight quotes stay straight.
smartquotes_action = "D"

myst_heading_anchors = 3

# Where nothing is included or filled in, as on a page in the repository, a line says where it is.
FOR_THE_REPOSITORY = re.compile(r"^In the repository.+\n\n?", re.MULTILINE)

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
nitpick_ignore_regex = [
    # Airflow, and what its classes are made of, is documented elsewhere.
    ("py:.*", r"(airflow|collections|pytest|typing|types|ssl)\..*"),
    # Short names of type hints, which stay short in a signature.
    ("py:class", r"timedelta|DateTime|UUID|XComArg|ExceptionRetryPolicy|UserInputCallback|Change"),
]


def setup(app: Sphinx) -> None:
    """Leave out of the site what is for readers of the repository alone."""
    app.connect("source-read", _leave_out)


def _leave_out(_app: Sphinx, _page: str, source: list[str]) -> None:
    source[0] = FOR_THE_REPOSITORY.sub("", source[0])
