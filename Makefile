# The commands of the README, and a few that one has at hand; all else is in noxfile.py. `make` lists them.
# Each works in a fresh clone: `.venv` is made when it is needed.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo ui test docs test-system lint types mypy pyright browser chromium clean

AIRFLOW := 3.3.2
PYTHONS := python3 python3.11 python3.12 python3.13 python3.10
BIN := .venv/bin

# The certificates of the system are those that a company's own mirror is signed with.
export UV_SYSTEM_CERTS := 1
# Where Python may keep no bytecode, each of the many processes compiles a thousand files of Airflow anew.
export PYTHONDONTWRITEBYTECODE :=

help:
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' Makefile | expand -t 14

demo: .venv/ready  ## Airflow runs the example DAG against the simulator
	@$(BIN)/python demo/run.py

ui: .venv/ready  ## Airflow's UI and the simulator's page side by side, until Ctrl-C
	@$(BIN)/python demo/ui.py

test: .venv/ready  ## everything that must hold; the last line is pytest's
	$(MAKE) -j 2 lint types
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 | tee .venv/pytest.log
	@$(BIN)/coverage combine -q
	$(BIN)/coverage report
	@tail -n 1 .venv/pytest.log

docs: .venv/ready  ## the documentation, in docs/_build/html
	$(BIN)/nox -s docs

test-system: .venv/ready  ## waits in an Airflow of several machines that fare badly; SIZE=--full for 1,000 of them
	$(BIN)/python tests/system/run.py --distributed $(SIZE) --result .nox/test-system-result.json

lint: .venv/ready  ## style, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: mypy pyright  ## the types of the package, and of the README's DAG

mypy: .venv/readme_dag.py
	$(BIN)/mypy
	$(BIN)/mypy $<

pyright: .venv/readme_dag.py
	$(BIN)/basedpyright airflow_provider_anon $<

.venv/readme_dag.py: README.md .venv/ready
	sed -n '/^```python$$/,/^```$$/{//!p}' README.md >$@

browser: .venv/browser chromium  ## Airflow's pages and the simulator's, in a browser; PICTURES=docs/images takes them anew
	BROWSER_TESTS=required SCREENSHOTS=$(PICTURES) $(BIN)/python -m pytest tests/browser

clean:  ## away with all that was made
	rm -rf .venv .nox .demo .judges .ui dist docs/_build .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

.venv/ready: pyproject.toml $(wildcard constraints/airflow-$(AIRFLOW)-*.txt)
	@fits() { "$$1" -c 'import ensurepip, sqlite3, ssl, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'; }
	for python in $(BIN)/python $(PYTHONS) "$$(pyenv root 2>/dev/null)"/versions/3.1[0-3].*/bin/python; do
	  if fits "$$python" &>/dev/null; then break; fi
	  python=
	done
	if [ -z "$$python" ]; then echo "Python 3.10 to 3.13 with venv is needed, and none was found." >&2; exit 1; fi
	pins=constraints/airflow-$(AIRFLOW)-py$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
	what="-q -c $$pins -e . --group test --group check"
	echo "Installing Airflow $(AIRFLOW) and the package into .venv, with $$pins"
	if [ "$$python" != $(BIN)/python ]; then "$$python" -m venv --clear .venv; fi
	$(BIN)/python -m pip install -q --disable-pip-version-check -c $$pins uv
	# Where uv finds no way to the package index, pip may: it has settings of its own.
	$(BIN)/uv pip install --python $(BIN)/python $$what || {
	  $(BIN)/python -m pip install -q --upgrade pip
	  $(BIN)/python -m pip install $$what
	}
	touch $@

.venv/browser: .venv/ready
	@pins=constraints/airflow-$(AIRFLOW)-py$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
	$(BIN)/uv pip install -q --python $(BIN)/python -c $$pins --group browser --group docs || {
	  $(BIN)/python -m pip install -q --upgrade pip
	  $(BIN)/python -m pip install -q -c $$pins --group browser --group docs
	}
	touch $@

chromium:
	@for name in chromium chromium-browser google-chrome; do
	  if command -v $$name >/dev/null; then exit; fi
	done
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	  echo "Chromium is needed, and was not found. On Debian: apt-get install chromium" >&2
	  exit 1
	fi
	apt-get update -qq
	apt-get install -o DPkg::Lock::Timeout=300 -qq -y --no-install-recommends chromium

.ONESHELL: .venv/ready
